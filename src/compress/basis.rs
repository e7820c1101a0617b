//! The basis of a site: principal components of its channels, streamed over the training set.
//!
//! Calibration accumulates per site the channel mean `μ` and the C×C covariance in float64; the basis `U` holds the
//! eigenvectors in its columns by falling eigenvalue. `z = Uᵀ(x − μ)`, `x̂ = U·Q(z) + μ`.

use tch::{Device, Kind, Tensor};

use crate::libtorch::LibtorchError;

/// Running sums of a site's channels.
#[derive(Debug)]
pub struct Moments {
    count: i64,
    sum: Tensor,
    /// `Σ xxᵀ`: `[channels, channels]`, or its diagonal alone.
    products: Tensor,
}

impl Moments {
    /// Empty sums for `channels` channels.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(channels: usize, device: Device) -> Result<Self, LibtorchError> {
        let channels = channels as i64;
        let sum = Tensor::f_zeros([channels], (Kind::Double, device))?;
        let products = Tensor::f_zeros([channels, channels], (Kind::Double, device))?;
        Ok(Self { count: 0, sum, products })
    }

    /// Empty sums that know variances, but no covariances.
    ///
    /// # Errors
    /// If memory is short.
    pub fn of_channels_alone(channels: usize, device: Device) -> Result<Self, LibtorchError> {
        let zeros = || Tensor::f_zeros([channels as i64], (Kind::Double, device));
        Ok(Self { count: 0, sum: zeros()?, products: zeros()? })
    }

    /// Adds a batch. `rows`: `[rows, channels]`, as [`to_rows`](super::codec::to_rows) makes them.
    ///
    /// # Errors
    /// If the shapes don't fit.
    pub fn add(&mut self, rows: &Tensor) -> Result<(), LibtorchError> {
        let rows = rows.f_to_kind(Kind::Double)?;
        self.count += rows.size()[0];
        self.sum = self.sum.f_add(&rows.f_sum_dim_intlist([0_i64].as_slice(), false, Kind::Double)?)?;
        self.products = match self.products.dim() {
            1 => {
                self.products.f_add(&rows.f_square()?.f_sum_dim_intlist([0_i64].as_slice(), false, Kind::Double)?)?
            }
            _ => self.products.f_addmm(&rows.f_transpose(0, 1)?, &rows)?,
        };
        Ok(())
    }

    /// Mean squares of the channels or, in a basis `[channels, coefficients]`, of `basisᵀ·x`.
    ///
    /// # Errors
    /// If libtorch fails, or a basis is given and covariances are not known.
    pub fn second_moments(&self, basis: Option<&Tensor>) -> Result<Vec<f64>, LibtorchError> {
        let sums = match (basis, self.products.dim()) {
            (None, 1) => self.products.shallow_clone(),
            (None, _) => self.products.f_diagonal(0, 0, 1)?,
            (Some(basis), _) => {
                let turned = self.products.f_matmul(basis)?.f_mul(basis)?;
                turned.f_sum_dim_intlist([0_i64].as_slice(), false, Kind::Double)?
            }
        };
        let means = sums.f_div_scalar(self.count.max(1) as f64)?;
        Ok(Vec::<f64>::try_from(means.f_to_device(Device::Cpu)?.f_contiguous()?)?)
    }

    /// Channel means: `[channels]`, float64.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn mean(&self) -> Result<Tensor, LibtorchError> {
        Ok(self.sum.f_div_scalar(self.count.max(1) as f64)?)
    }

    fn covariance(&self) -> Result<Tensor, LibtorchError> {
        let mean = self.mean()?;
        Ok(self.products.f_div_scalar(self.count.max(1) as f64)?.f_sub(&mean.f_outer(&mean)?)?)
    }

    /// The eigenvectors of the covariance: `[channels, channels]`, columns by falling eigenvalue.
    ///
    /// # Errors
    /// If the eigendecomposition does not converge.
    pub fn basis(&self) -> Result<Tensor, LibtorchError> {
        eigenvectors(&self.covariance()?)
    }

    /// Block-diagonal principal components: blocks of at most `size` channels that vary together, each with the
    /// eigenvectors of its own covariance. `[channels, channels]`; a column has its non-zero entries at its block's
    /// channels, where the second tensor of the same shape is 1 and not 0.
    ///
    /// # Errors
    /// If an eigendecomposition does not converge.
    pub fn block_basis(&self, size: usize) -> Result<(Tensor, Tensor), LibtorchError> {
        let covariance = self.covariance()?;
        let channels = covariance.size()[0];
        let numbers = Vec::<f64>::try_from(covariance.f_reshape([-1])?.f_to_device(Device::Cpu)?)?;
        let (basis, mask) = (covariance.f_zeros_like()?, covariance.f_zeros_like()?);
        let mut column = 0_i64;
        for block in blocks(&numbers, channels as usize, size) {
            let members: Vec<i64> = block.iter().map(|&c| c as i64).collect();
            let members = Tensor::from_slice(&members).f_to_device(covariance.device())?;
            let inner = covariance.f_index_select(0, &members)?.f_index_select(1, &members)?;
            let vectors = eigenvectors(&inner)?;
            let width = vectors.size()[0];
            for (whole, part) in [(&basis, &vectors), (&mask, &vectors.f_ones_like()?)] {
                let mut place = whole.f_narrow(1, column, width)?;
                let filled = place.f_index_copy(0, &members, part)?;
                place.f_copy_(&filled)?;
            }
            column += width;
        }
        Ok((basis, mask))
    }
}

/// Whether a square basis is orthonormal, to the precision of float32: a vector's rounding errors change the scalar products by
/// some 10⁻⁷.
///
/// # Errors
/// If libtorch fails.
pub(super) fn is_orthonormal(basis: &Tensor) -> Result<bool, LibtorchError> {
    let basis = basis.f_detach()?.f_to_kind(Kind::Double)?;
    let products = basis.f_transpose(0, 1)?.f_matmul(&basis)?;
    let identity = Tensor::f_eye(basis.size()[0], (Kind::Double, basis.device()))?;
    Ok(products.f_sub(&identity)?.f_abs()?.f_max()?.f_double_value(&[])? < 1e-6)
}

fn eigenvectors(covariance: &Tensor) -> Result<Tensor, LibtorchError> {
    let (_, vectors) = covariance.f_linalg_eigh("L")?;
    let vectors = vectors.f_flip([1])?;
    // An eigenvector's sign is free: fixed by its largest component, so that it doesn't hang on the solver.
    let largest = vectors.f_abs()?.f_argmax(0, true)?;
    let sign = vectors.f_gather(0, &largest, false)?.f_sign()?;
    Ok(vectors.f_mul(&sign)?.f_contiguous()?)
}

/// Blocks of at most `size` channels, greedily: the channel of the largest variance that is left, and those that correlate
/// most with it. `covariance`: `channels²` numbers by rows.
fn blocks(covariance: &[f64], channels: usize, size: usize) -> Vec<Vec<usize>> {
    let variance = |c: usize| covariance[c * channels + c];
    let mut left: Vec<usize> = (0..channels).collect();
    left.sort_by(|&a, &b| variance(b).total_cmp(&variance(a)).then(a.cmp(&b)));
    let mut blocks = Vec::new();
    while let Some(&first) = left.first() {
        let together = |c: usize| {
            let scale = (variance(first) * variance(c)).sqrt();
            if scale > 0.0 { (covariance[first * channels + c] / scale).abs() } else { 0.0 }
        };
        let mut others = left[1..].to_vec();
        others.sort_by(|&a, &b| together(b).total_cmp(&together(a)).then(a.cmp(&b)));
        others.truncate(size.max(1) - 1);
        let block: Vec<usize> = std::iter::once(first).chain(others).collect();
        left.retain(|c| !block.contains(c));
        blocks.push(block);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed() -> Tensor {
        tch::manual_seed(3);
        let mix = Tensor::randn([6, 6], (Kind::Double, Device::Cpu));
        Tensor::randn([4000, 6], (Kind::Double, Device::Cpu)).matmul(&mix) + 2.0
    }

    fn moments_of(rows: &Tensor) -> Moments {
        let mut moments = Moments::new(6, Device::Cpu).unwrap();
        for part in rows.split(1500, 0) {
            moments.add(&part).unwrap();
        }
        moments
    }

    fn covariance_in(basis: &Tensor, rows: &Tensor) -> Tensor {
        let centred = rows - rows.mean_dim(0, true, Kind::Double);
        let coefficients = centred.matmul(basis);
        coefficients.transpose(0, 1).matmul(&coefficients) / rows.size()[0]
    }

    #[test]
    fn batches_add_up_to_the_whole_and_the_basis_diagonalises_it() {
        let rows = mixed();
        let basis = moments_of(&rows).basis().unwrap();
        let covariance = covariance_in(&basis, &rows);
        let variances = covariance.diagonal(0, 0, 1);
        // Both sides are the same sums in float64 in another order.
        assert!((&covariance - variances.diag(0)).abs().max().double_value(&[]) < 1e-9);
        let variances = Vec::<f64>::try_from(variances.contiguous()).unwrap();
        assert!(variances.windows(2).all(|w| w[0] >= w[1]));
        let identity = basis.transpose(0, 1).matmul(&basis);
        assert!((identity - Tensor::eye(6, (Kind::Double, Device::Cpu))).abs().max().double_value(&[]) < 1e-12);
    }

    #[test]
    fn second_moments_turn_with_the_basis() {
        let rows = mixed();
        let moments = moments_of(&rows);
        let basis = moments.basis().unwrap();
        let direct = rows.matmul(&basis).square().mean_dim(0, false, Kind::Double);
        let turned = Tensor::from_slice(&moments.second_moments(Some(&basis)).unwrap());
        // The same sums in float64 in another order.
        assert!((direct - turned).abs().max().double_value(&[]) < 1e-9);
        let mut alone = Moments::of_channels_alone(6, Device::Cpu).unwrap();
        alone.add(&rows).unwrap();
        let plain = Tensor::from_slice(&alone.second_moments(None).unwrap());
        let full = Tensor::from_slice(&moments.second_moments(None).unwrap());
        assert!((plain - full).abs().max().double_value(&[]) < 1e-9);
    }

    #[test]
    fn the_basis_is_of_all_batches_not_of_the_first() {
        let rows = mixed();
        let stretched = Tensor::cat(&[&rows, &(&rows * Tensor::from_slice(&[9.0, 1.0, 1.0, 1.0, 1.0, 1.0]))], 0);
        let first = moments_of(&rows).basis().unwrap();
        let all = moments_of(&stretched).basis().unwrap();
        assert!((first - all).abs().max().double_value(&[]) > 0.1);
    }

    #[test]
    fn a_block_basis_is_orthonormal_and_diagonalises_within_its_blocks() {
        let rows = mixed();
        let (basis, mask) = moments_of(&rows).block_basis(4).unwrap();
        assert_eq!((basis.ne(0.0).logical_xor(&mask.ne(0.0))).count_nonzero(None).int64_value(&[]), 0);
        let identity = basis.transpose(0, 1).matmul(&basis);
        assert!((identity - Tensor::eye(6, (Kind::Double, Device::Cpu))).abs().max().double_value(&[]) < 1e-12);
        assert_eq!(basis.count_nonzero(None).int64_value(&[]), 4 * 4 + 2 * 2);
        let covariance = covariance_in(&basis, &rows);
        let within = |from: i64, width: i64| {
            let block = covariance.narrow(0, from, width).narrow(1, from, width);
            (&block - block.diagonal(0, 0, 1).diag(0)).abs().max().double_value(&[])
        };
        assert!(within(0, 4) < 1e-9 && within(4, 2) < 1e-9);
    }

    /// Rows and columns of a square basis: `U Uᵀ = I` follows from `Uᵀ U = I`, but for rounding.
    #[test]
    fn eigenvectors_are_orthonormal_in_float32() {
        tch::manual_seed(4);
        let channels = 200;
        let mix = Tensor::randn([channels, channels], (Kind::Double, Device::Cpu));
        let covariance = mix.transpose(0, 1).matmul(&mix);
        let basis = eigenvectors(&covariance).unwrap().to_kind(Kind::Float);
        assert!(is_orthonormal(&basis).unwrap());
        let wide = basis.to_kind(Kind::Double);
        let identity = Tensor::eye(channels, (Kind::Double, Device::Cpu));
        assert!((wide.matmul(&wide.transpose(0, 1)) - identity).abs().max().double_value(&[]) < 1e-6);
        let _ = basis.get(3).get(5).f_add_scalar_(1e-4).unwrap();
        assert!(!is_orthonormal(&basis).unwrap());
    }

    #[test]
    fn channels_that_vary_together_share_a_block() {
        // Channels 0 and 3 are one signal, 1 and 2 another.
        let covariance = [4.0, 0.0, 0.1, 3.9, 0.0, 2.0, 1.9, 0.0, 0.1, 1.9, 2.0, 0.0, 3.9, 0.0, 0.0, 4.0];
        assert_eq!(blocks(&covariance, 4, 2), [vec![0, 3], vec![1, 2]]);
    }
}
