//! What leaves a run while it runs and when it ends.
//!
//! The training loop prints nothing: it emits an [`Event`], and every [`Sink`] makes of it what it is for. [`Console`] writes to a
//! person, [`MetricsFile`] to `metrics.jsonl`, [`TensorBoard`] to a folder of event files; [`Sinks`] passes one event to all of them.
//! A finished run is a [`Summary`], which [`final_table`] sets for reading; [`report_table`] and [`report_page`] set several runs side
//! by side.

mod bench;
mod compare;
mod console;
mod error;
mod events;
mod format;
mod html;
mod jsonl;
mod layout;
mod pace;
mod pack;
mod screen;
mod sink;
mod summary;
mod table;
mod tensorboard;
mod timeline;
mod traffic;
mod words;

pub use bench::{BenchReport, BenchRow, bench_table};
pub use compare::{Report, RunReport, SiteHistogram, report_table};
pub use console::{Console, Verbosity};
pub use error::ReportError;
pub use events::{Event, GroupRow, Losses, SiteRow};
pub use html::report_page;
pub use jsonl::MetricsFile;
pub use pack::{PackReport, PackedGroup, PackedSite, UnpackedSite, pack_table};
pub use sink::{LogMark, Sink, Sinks};
pub use summary::{Status, Summary, folder_of, write_atomically, write_atomically_with};
pub use table::{InspectRow, final_table, inspect_table};
pub use tensorboard::TensorBoard;
pub use timeline::Timeline;
pub use traffic::{DRAM_PJ_PER_BIT, DRAM_SOURCE, TensorBits, Traffic, Variants};
