//! What leaves a run while it runs and when it ends.
//!
//! The training loop prints nothing: it emits an [`Event`], and every [`Sink`] makes of it what it is for. [`Console`] writes to a
//! person, [`MetricsFile`] to `metrics.jsonl`, [`TensorBoard`] to a folder of event files; [`Sinks`] passes one event to all of them.
//! A finished run is a [`Summary`], which [`final_table`] sets for reading.

mod bench;
mod console;
mod error;
mod events;
mod format;
mod jsonl;
mod layout;
mod pace;
mod screen;
mod sink;
mod summary;
mod table;
mod tensorboard;
mod words;

pub use bench::{BenchReport, BenchRow, bench_table};
pub use console::{Console, Verbosity};
pub use error::ReportError;
pub use events::{Event, GroupRow, Losses, SiteRow};
pub use jsonl::MetricsFile;
pub use sink::{Sink, Sinks};
pub use summary::{Status, Summary, write_atomically};
pub use table::{InspectRow, final_table, inspect_table};
pub use tensorboard::TensorBoard;
