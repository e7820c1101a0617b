//! Float training.

use crate::libtorch::Saved;
use crate::recipe::{BatchNorm, TrainStage};
use crate::train::error::TrainError;
use crate::train::fit::{Phase, fit};
use crate::train::folder::RunFolder;
use crate::train::objective::TaskAlone;
use crate::train::session::Session;

/// Trains the float network and keeps it as TorchScript in `checkpoints/float.pt`, so that other recipes can start from it.
///
/// # Errors
/// If the network, the data or a sink fail, or the training diverges.
pub fn carry_out(
    session: &mut Session<'_>,
    stage: &TrainStage,
    index: usize,
    folder: &RunFolder,
) -> Result<Option<f64>, TrainError> {
    let phase = Phase {
        name: "train",
        index,
        length: stage.length,
        learning_rate: stage.learning_rate,
        warmup: stage.warmup.of(stage.length),
        momentum: stage.momentum,
        weight_decay: stage.weight_decay,
        label_smoothing: stage.label_smoothing,
        quantizers: None,
        batch_norm: BatchNorm::Train,
        distillation: 0.0,
        entropy_weight: 0.0,
        saved: Saved::Full,
    };
    fit(session, &phase, &mut TaskAlone)?;
    session.model.network.set_train(false, false)?;
    folder.publish("checkpoints/float.pt", |partial| session.model.network.save(partial))?;
    Ok(None)
}
