//! Batch normalisation's running statistics, averaged anew.
//!
//! While activations are quantized the statistics of a moving window follow the weights of its last steps. Averaged anew
//! over training images, they are those of weights and widths as they stand. A batch turns a running value `r` into
//! `(1 − m)·r + m·s` with its own value `s`: from `r = 0` it gives `m·s`, and from `r = 1` it tells `m`, so nothing needs to
//! be known of the layer.

use tch::{Tensor, no_grad};

use super::error::TrainError;
use super::session::Session;
use crate::libtorch::{LibtorchError, Saved};

/// Images that the statistics are averaged over.
const IMAGES: usize = 2048;

/// Averages the running means and variances of all layers over training images, with the codecs in place.
///
/// # Errors
/// If the network or the data fail.
pub fn reestimate(session: &mut Session<'_>) -> Result<(), TrainError> {
    let (mut running, mut counters) = (Vec::new(), Vec::new());
    for named in session.model.network.tensors()? {
        match named.name.rsplit('.').next() {
            Some("running_mean" | "running_var") => running.push(named.tensor),
            Some("num_batches_tracked") => counters.push(named.tensor),
            _ => {}
        }
    }
    // A network traced in evaluation never writes them.
    if session.model.baked_evaluation {
        return Ok(());
    }
    session.model.network.set_train(true, false)?;
    let (counted, before) = (copies(&counters)?, copies(&running)?);
    let mut sums: Vec<Tensor> =
        running.iter().map(Tensor::f_zeros_like).collect::<Result<_, _>>().map_err(LibtorchError::from)?;
    let mut rates: Option<Vec<Tensor>> = None;
    let total = IMAGES.min(session.feed.train_images);
    let (mut seen, mut batches, mut full) = (0_usize, 0_u32, 0_i64);
    for batch in session.feed.calibration() {
        let (x, _) = batch?;
        // The last batch may hold a single image, whose variance is none.
        if x.size()[0] < full {
            break;
        }
        full = x.size()[0];
        let from_zero = after_batch(session, &mut running, &mut counters, &x, 0.0)?;
        if rates.is_none() {
            let from_one = after_batch(session, &mut running, &mut counters, &x, 1.0)?;
            let rate = |(one, zero): (&Tensor, &Tensor)| Ok(one.f_sub(zero)?.f_neg()?.f_add_scalar(1.0)?);
            rates = Some(from_one.iter().zip(&from_zero).map(rate).collect::<Result<_, LibtorchError>>()?);
        }
        for (sum, value) in sums.iter_mut().zip(&from_zero) {
            *sum = sum.f_add(value).map_err(LibtorchError::from)?;
        }
        seen += x.size()[0] as usize;
        batches += 1;
        session.progress("norm", seen.min(total), total, "batch normalisation")?;
        if seen >= total {
            break;
        }
    }
    let Some(rates) = rates else { return Ok(()) };
    no_grad(|| {
        for (((running, sum), rate), before) in running.iter_mut().zip(&sums).zip(&rates).zip(&before) {
            let mean = sum.f_div_scalar(f64::from(batches))?.f_div(rate)?;
            // A layer that didn't run, or has momentum 0, keeps what it has.
            running.f_copy_(&mean.f_where_self(&rate.f_ne(0.0)?, before)?)?;
        }
        for (counter, before) in counters.iter_mut().zip(&counted) {
            counter.f_copy_(before)?;
        }
        Ok::<_, LibtorchError>(())
    })?;
    Ok(())
}

/// The running values after one batch in training, from `value`.
fn after_batch(
    session: &Session<'_>,
    running: &mut [Tensor],
    counters: &mut [Tensor],
    x: &Tensor,
    value: f64,
) -> Result<Vec<Tensor>, TrainError> {
    // Both passes over a batch drop out the same values.
    tch::manual_seed(session.recipe.seed as i64);
    no_grad(|| {
        for tensor in running.iter_mut() {
            let _ = tensor.f_fill_(value).map_err(LibtorchError::from)?;
        }
        // A layer without a momentum divides by its count.
        for counter in counters.iter_mut() {
            let _ = counter.f_zero_().map_err(LibtorchError::from)?;
        }
        let _outcome = session.forward(x, None, Saved::Full)?;
        Ok(copies(running)?)
    })
}

fn copies(tensors: &[Tensor]) -> Result<Vec<Tensor>, LibtorchError> {
    tensors.iter().map(|t| Ok(t.f_alias_copy()?)).collect()
}
