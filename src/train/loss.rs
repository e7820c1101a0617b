//! The terms of the loss that a batch has by itself.

use tch::{Kind, Reduction, Tensor, no_grad};

use super::error::TrainError;
use super::fit::Phase;
use super::session::Session;
use crate::libtorch::LibtorchError;

/// The terms, weighted; scalars with gradient.
pub struct Loss {
    /// Cross-entropy.
    pub task: Tensor,
    /// Divergence from the float network.
    pub distillation: Option<Tensor>,
    /// Estimated code length.
    pub rate: Option<Tensor>,
}

impl Loss {
    /// The loss of a batch of images `x` with labels `y`, whose code lengths are `rates`.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn of(
        session: &Session<'_>,
        phase: &Phase,
        (x, y): (&Tensor, &Tensor),
        logits: &Tensor,
        rates: &[Tensor],
    ) -> Result<Self, TrainError> {
        let task = logits
            .f_cross_entropy_loss(y, None::<&Tensor>, Reduction::Mean, -100, phase.label_smoothing)?
            .f_mul_scalar(1.0 - phase.distillation)?;
        let distillation = distillation(session, phase, x, logits)?;
        let rate = match &session.compressor {
            Some(compressor) if phase.entropy_weight > 0.0 => {
                Some(compressor.rate(rates)?.f_mul_scalar(phase.entropy_weight)?)
            }
            _ => None,
        };
        Ok(Self { task, distillation, rate })
    }

    /// All terms together.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn sum(&self) -> Result<Tensor, LibtorchError> {
        let terms = self.distillation.iter().chain(&self.rate);
        Ok(terms.clone().try_fold(self.task.shallow_clone(), |sum, term| sum.f_add(term))?)
    }
}

/// Weighted divergence from the float network's prediction: `w · KL(teacher ‖ student)`, mean over the batch.
fn distillation(
    session: &Session<'_>,
    phase: &Phase,
    x: &Tensor,
    logits: &Tensor,
) -> Result<Option<Tensor>, TrainError> {
    let Some(teacher) = session.teacher.as_ref().filter(|_| phase.distillation > 0.0) else { return Ok(None) };
    let target = no_grad(|| teacher.forward(x, |_, _, _| Ok::<_, LibtorchError>(None)))?;
    let target = target.f_log_softmax(1, Kind::Float)?;
    let student = logits.f_log_softmax(1, Kind::Float)?;
    let divergence = student.f_kl_div(&target, Reduction::Sum, true)?.f_div_scalar(x.size()[0] as f64)?;
    Ok(Some(divergence.f_mul_scalar(phase.distillation)?))
}
