//! The loop: stages, optimizers, evaluation, checkpoints.
//!
//! [`run()`] carries out a recipe, or the rest of it; [`open_run`] opens a finished run's folder again; [`bench()`] measures what a training step
//! costs. The loop emits [`Event`](crate::report::Event)s and prints nothing.

mod about;
mod batches;
mod bench;
mod checkpoint;
mod error;
mod evaluate;
mod feed;
mod fit;
mod folder;
mod guard;
mod loss;
mod measure;
mod nearby;
mod norm;
mod objective;
mod optimizer;
mod reached;
mod resume;
mod run;
mod session;
mod source;
mod stages;
mod statistics;
mod stop;
mod trainer;
mod validate;
mod window;

pub use about::recipe_of_run;
pub use bench::{BenchOptions, Loading, Moment, Row, UnknownRow, WARM_UP, bench, bench_loading, peak_of_row};
pub use checkpoint::{OpenedRun, open_run};
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use feed::{Feed, SplitFeed};
pub use measure::{Measured, measure_model, measure_run};
pub use reached::stored_bits;
pub use resume::Cadence;
pub use run::{Ended, RunOptions, run};
pub use session::left_out;
pub use stop::Stop;
pub use validate::{load_model, sites_left_out, training_images, validate};
