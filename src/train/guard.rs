//! Values that are no finite numbers: where they are first.

use tch::{Tensor, no_grad};

use super::error::TrainError;
use super::session::Session;
use crate::libtorch::LibtorchError;

/// Whether all values are finite numbers.
///
/// # Errors
/// If libtorch fails.
pub fn is_finite(tensor: &Tensor) -> Result<bool, LibtorchError> {
    // A sum is one pass over memory and not finite if one of its terms isn't; finite terms that overflow it are looked at.
    let sum = no_grad(|| tensor.f_sum(tch::Kind::Double))?.f_double_value(&[])?;
    Ok(sum.is_finite() || tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0)
}

/// The first parameter of the network that is not finite, or the first learned basis.
///
/// # Errors
/// If libtorch fails.
pub fn broken_parameter(session: &Session<'_>) -> Result<Option<String>, TrainError> {
    for named in session.model.network.tensors()? {
        if named.is_parameter && named.tensor.is_floating_point() && !is_finite(&named.tensor)? {
            return Ok(Some(format!("parameter `{}`", named.name)));
        }
    }
    let Some(compressor) = &session.compressor else { return Ok(None) };
    for codec in &compressor.codecs {
        let crate::compress::transform::Transform::Pca(pca) = &codec.transform else { continue };
        for leaf in pca.leaves() {
            if !is_finite(&leaf)? {
                return Ok(Some(format!("the basis of site `{}`", codec.site.name)));
            }
        }
    }
    Ok(None)
}

/// The site where values of a batch `x` first stop being finite.
///
/// # Errors
/// If the network fails.
fn broken_site(session: &Session<'_>, x: &Tensor) -> Result<Option<String>, TrainError> {
    let mut first: Option<usize> = None;
    let quantizers = session.compressor.as_ref().map(|c| c.quantizers()).transpose()?;
    let _logits = no_grad(|| {
        session.model.network.forward(x, |site, side, value| -> Result<Option<Tensor>, LibtorchError> {
            if first.is_none() && !is_finite(value)? {
                first = Some(site);
            }
            match (&session.compressor, &quantizers) {
                (Some(compressor), Some(quantizers)) => compressor.hook(site, side, value, quantizers),
                _ => Ok(None),
            }
        })
    })?;
    Ok(first.map(|site| session.model.network.survey().sites[site].name.clone()))
}

/// That the loss of a batch `x` is not finite, and where it begins. `step`: of the stage, from 1.
///
/// # Errors
/// If the network fails.
pub fn diverged(
    session: &Session<'_>,
    stage: &str,
    step: u64,
    loss: f64,
    x: &Tensor,
) -> Result<TrainError, TrainError> {
    let mut first = String::new();
    if let Some(name) = broken_parameter(session)? {
        first += &format!("; the step before has left {name} without a finite value");
    }
    if let Some(name) = broken_site(session, x)? {
        first += &format!("; values first stop being finite at site `{name}`");
    }
    Ok(TrainError::Diverged { loss, step, stage: stage.to_owned(), first })
}
