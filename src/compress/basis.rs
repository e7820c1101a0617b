//! The basis of a site: principal components of its channels, streamed over the training set.
//!
//! Calibration accumulates per site the channel mean `μ` and the C×C covariance in float64; the basis `U` holds the
//! eigenvectors in its columns by falling eigenvalue. `z = Uᵀ(x − μ)`, `x̂ = U·Q(z) + μ`.

use tch::{Kind, Tensor};

use crate::libtorch::LibtorchError;

/// Running sums of a site's channels.
#[derive(Debug)]
pub struct Moments {
    count: i64,
    sum: Tensor,
    products: Tensor,
}

/// A site's basis.
#[derive(Debug)]
pub struct Basis {
    /// `μ`: `[channels]`, float64.
    pub mean: Tensor,
    /// `U`: `[channels, channels]`, float64, columns by falling eigenvalue.
    pub vectors: Tensor,
    /// Eigenvalues (variances of the coefficients), falling.
    pub variances: Vec<f64>,
}

impl Moments {
    /// Empty sums for `channels` channels.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(channels: usize, device: tch::Device) -> Result<Self, LibtorchError> {
        let channels = channels as i64;
        let sum = Tensor::f_zeros([channels], (Kind::Double, device))?;
        let products = Tensor::f_zeros([channels, channels], (Kind::Double, device))?;
        Ok(Self { count: 0, sum, products })
    }

    /// Adds a batch. `x`: `[batch, channels, positions]`.
    ///
    /// # Errors
    /// If the shapes don't fit.
    pub fn add(&mut self, x: &Tensor) -> Result<(), LibtorchError> {
        let columns = columns(x)?.f_to_kind(Kind::Double)?;
        self.count += columns.size()[1];
        self.sum = self.sum.f_add(&columns.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Double)?)?;
        self.products = self.products.f_add(&columns.f_matmul(&columns.f_transpose(0, 1)?)?)?;
        Ok(())
    }

    /// Mean, eigenvectors and eigenvalues of what was added.
    ///
    /// # Errors
    /// If the eigendecomposition does not converge.
    pub fn basis(&self) -> Result<Basis, LibtorchError> {
        let count = self.count.max(1) as f64;
        let mean = self.sum.f_div_scalar(count)?;
        let covariance = self.products.f_div_scalar(count)?.f_sub(&mean.f_outer(&mean)?)?;
        let (values, vectors) = covariance.f_linalg_eigh("L")?;
        let (values, vectors) = (values.f_flip([0])?, vectors.f_flip([1])?);
        // An eigenvector's sign is free: fixed by its largest component, so that it doesn't hang on the solver.
        let largest = vectors.f_abs()?.f_argmax(0, true)?;
        let sign = vectors.f_gather(0, &largest, false)?.f_sign()?;
        let variances = Vec::<f64>::try_from(values.f_clamp_min(0.0)?.f_contiguous()?)?;
        Ok(Basis { mean, vectors: vectors.f_mul(&sign)?.f_contiguous()?, variances })
    }
}

/// `[batch, channels, positions]` → `[channels, batch · positions]`.
///
/// # Errors
/// If `x` has another number of dimensions.
pub fn columns(x: &Tensor) -> Result<Tensor, LibtorchError> {
    let channels = x.size().get(1).copied().unwrap_or(1);
    Ok(x.f_transpose(0, 1)?.f_reshape([channels, -1])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn batches_add_up_to_the_whole_and_the_basis_diagonalises_it() {
        tch::manual_seed(3);
        let mix = Tensor::randn([6, 6], (Kind::Double, Device::Cpu));
        let data = mix.matmul(&Tensor::randn([6, 4000], (Kind::Double, Device::Cpu))) + 2.0;
        let batched = data.reshape([6, 8, 500]).transpose(0, 1);
        let mut moments = Moments::new(6, Device::Cpu).unwrap();
        for part in batched.split(3, 0) {
            moments.add(&part).unwrap();
        }
        let basis = moments.basis().unwrap();
        let centred = &data - basis.mean.unsqueeze(1);
        let coefficients = basis.vectors.transpose(0, 1).matmul(&centred);
        let covariance = coefficients.matmul(&coefficients.transpose(0, 1)) / 4000.0;
        let expected = Tensor::from_slice(&basis.variances).diag(0);
        // Both sides are the same sums in float64 in another order.
        assert!((covariance - expected).abs().max().double_value(&[]) < 1e-9);
        assert!(basis.variances.windows(2).all(|w| w[0] >= w[1]));
        let identity = basis.vectors.transpose(0, 1).matmul(&basis.vectors);
        assert!((identity - Tensor::eye(6, (Kind::Double, Device::Cpu))).abs().max().double_value(&[]) < 1e-12);
    }
}
