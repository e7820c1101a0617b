//! A codec in one pass over memory, forward and backward.

use tch::Tensor;
use torch_sys::C_tensor;

use super::error::LibtorchError;
use super::ffi::{self, call};
use super::quantize::{Clamp, Codes};

/// A transform of rows: `x·matrix + constant`.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// `[columns of x, columns of the result]`.
    pub matrix: &'a Tensor,
    /// `[columns of the result]`.
    pub constant: &'a Tensor,
}

/// What a codec is made of; all of one kind, on one device.
#[derive(Debug)]
pub struct CodecParts<'a> {
    /// From channels to coefficients, `[channels, kept]`; none where the layer in front gives coefficients.
    pub analysis: Option<Affine<'a>>,
    /// From coefficients to channels, `[kept, channels]`; none where the layers behind take coefficients. One of both is there.
    pub synthesis: Option<Affine<'a>>,
    /// Step of each coefficient: `[kept]`, > 0.
    pub step: &'a Tensor,
    /// Range of each coefficient: `[kept]`.
    pub range: &'a Tensor,
    /// Offset of each coefficient: `[kept]`.
    pub offset: &'a Tensor,
    /// Which codes the coefficients get.
    pub codes: Codes,
    /// `analysis` is square and orthonormal, to the precision of its numbers, `synthesis` its transpose, and neither learns: the
    /// gradient of `x` is then that of the result but for what lies out of the quantizer's range.
    pub orthonormal: bool,
}

/// `f(synthesis(Q(analysis(x))))`, with the gradients of [`quantize`](super::quantize) and without one of `x` where `f` clamps.
/// A transform that is missing is left out, and `f` is for results of a synthesis alone.
///
/// Matrices may learn, and the constant of the analysis; that of the synthesis has no gradient.
///
/// On the CPU in float32 a few rows at a time go through all of it while they are in the cache; otherwise, and where libtorch
/// has no small matrix products for the CPU, ATen's operations follow one another and give the same but for the order of sums.
///
/// * `x`: `[rows, channels]`, `[rows, kept]` without an analysis
///
/// # Errors
/// If the shapes, kinds or devices don't fit, or on any failure of libtorch.
pub fn codec(x: &Tensor, parts: &CodecParts<'_>, activation: Clamp) -> Result<Tensor, LibtorchError> {
    run(x, parts, activation, true)
}

fn pointer(tensor: Option<&Tensor>) -> *const C_tensor {
    tensor.map_or(std::ptr::null(), Tensor::as_ptr)
}

fn run(x: &Tensor, parts: &CodecParts<'_>, activation: Clamp, fused: bool) -> Result<Tensor, LibtorchError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: all tensors are live; the result is handed over.
    call(|error| unsafe {
        ffi::dimbit_codec(
            x.as_ptr(),
            parts.step.as_ptr(),
            parts.range.as_ptr(),
            parts.offset.as_ptr(),
            pointer(parts.analysis.map(|affine| affine.matrix)),
            pointer(parts.analysis.map(|affine| affine.constant)),
            pointer(parts.synthesis.map(|affine| affine.matrix)),
            pointer(parts.synthesis.map(|affine| affine.constant)),
            parts.codes.as_int(),
            activation.low,
            activation.high,
            parts.orthonormal.into(),
            fused.into(),
            &mut out,
            error,
        )
    })
    .map_err(|reason| LibtorchError::Call { what: "codec", reason })?;
    // SAFETY: set on success, owned by us.
    Ok(unsafe { Tensor::from_ptr(out) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::{Device, Kind, Tensor};

    use super::*;

    /// Which transforms a codec has.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Halves {
        Both,
        NoAnalysis,
        NoSynthesis,
    }

    struct Case {
        x: Tensor,
        grad: Tensor,
        matrices: [Tensor; 4],
        quantizer: [Tensor; 3],
        codes: Codes,
        orthonormal: bool,
        halves: Halves,
        /// Whether analysis and synthesis do.
        learns: [bool; 2],
    }

    const F: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Coefficients that keep off the ties of rounding and the bounds of the range, since float32 sums in another order may
    /// fall to the other side there: `x` is made from them. What a level is rounded by is a small difference of larger
    /// numbers, so steps are not small beside the means. `reach`: ranges in steps, below that; levels go to 8.
    fn case(rows: i64, channels: i64, kept: i64, codes: Codes, reach: [i64; 2], seed: i64) -> Case {
        tch::manual_seed(seed);
        let (basis, _) =
            Tensor::linalg_qr(&Tensor::randn([channels, channels], (Kind::Double, Device::Cpu)), "reduced");
        let analysis = basis.to_kind(Kind::Float).narrow(1, 0, kept).contiguous();
        let synthesis = analysis.transpose(0, 1).contiguous();
        let mean = Tensor::randn([channels], F) * 0.3;
        let step = Tensor::rand([kept], F) * 0.4 + 0.3;
        let half = codes.half();
        let range = &step * (Tensor::randint_low(reach[0], reach[1], [kept], F) - half);
        let offset = if codes == Codes::Unsigned { Tensor::randn([kept], F) * 0.3 } else { Tensor::zeros([kept], F) };
        let levels = Tensor::randint_low(-8, 9, [rows, kept], F) + half + (Tensor::rand([rows, kept], F) - 0.5) * 0.8;
        let z = levels * &step + &offset;
        let x = z.matmul(&synthesis) + &mean;
        let bias = mean.unsqueeze(0).matmul(&analysis).squeeze_dim(0).neg();
        let grad = Tensor::randn([rows, channels], F);
        let orthonormal = kept == channels;
        Case {
            x,
            grad,
            matrices: [analysis, bias, synthesis, mean],
            quantizer: [step, range, offset],
            codes,
            orthonormal,
            halves: Halves::Both,
            learns: [false; 2],
        }
    }

    /// The output, and the gradients of `x`, step, range and of what learns of the transforms.
    fn carried_out(case: &Case, activation: Clamp, fused: bool) -> Vec<Tensor> {
        let leaf = |t: &Tensor| t.detach().copy().set_requires_grad(true);
        let (x, step, range) = (leaf(&case.x), leaf(&case.quantizer[0]), leaf(&case.quantizer[1]));
        let learning = |index: usize, learns: bool| case.matrices[index].detach().set_requires_grad(learns);
        let [forth, back] = case.learns;
        let (analysis, bias, synthesis) = (learning(0, forth), learning(1, forth), learning(2, back));
        let mut parts = CodecParts { step: &step, range: &range, ..case.parts() };
        parts.analysis = parts.analysis.map(|_| Affine { matrix: &analysis, constant: &bias });
        parts.synthesis = parts.synthesis.map(|affine| Affine { matrix: &synthesis, ..affine });
        let out = run(&x, &parts, activation, fused).unwrap();
        (&out * &case.grad).sum(Kind::Float).backward();
        let mut found = vec![out.detach(), x.grad(), step.grad(), range.grad()];
        found.extend([analysis, bias, synthesis].iter().map(Tensor::grad).filter(Tensor::defined));
        found
    }

    impl Case {
        fn parts(&self) -> CodecParts<'_> {
            let [analysis, bias, synthesis, mean] = &self.matrices;
            let [step, range, offset] = &self.quantizer;
            let analysis = Affine { matrix: analysis, constant: bias };
            let synthesis = Affine { matrix: synthesis, constant: mean };
            CodecParts {
                analysis: (self.halves != Halves::NoAnalysis).then_some(analysis),
                synthesis: (self.halves != Halves::NoSynthesis).then_some(synthesis),
                step,
                range,
                offset,
                codes: self.codes,
                orthonormal: self.orthonormal && self.halves == Halves::Both && self.learns == [false; 2],
            }
        }

        /// The same with coefficients in place of the channels on one side.
        fn with(mut self, halves: Halves) -> Self {
            let [analysis, bias, _, _] = &self.matrices;
            match halves {
                Halves::Both => {}
                Halves::NoAnalysis => self.x = bias.addmm(&self.x, analysis),
                Halves::NoSynthesis => self.grad = self.grad.narrow(1, 0, bias.numel() as i64).contiguous(),
            }
            Self { halves, ..self }
        }
    }

    /// Largest difference relative to the largest magnitude, or to `usual` if that is larger.
    fn difference(a: &Tensor, b: &Tensor, usual: f64) -> f64 {
        let scale = b.abs().max().double_value(&[]).max(usual);
        (a - b).abs().max().double_value(&[]) / scale
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Float32 sums over up to 70 channels and 700 rows in another order: 2e-6 on outputs is some sixteen units in the
        /// last place of the largest, 1e-5 on sums over rows (of which one that happens to cancel is no measure: that of
        /// `rows` random terms comes to some √rows/5).
        #[test]
        fn one_pass_gives_what_the_parts_give(
            rows in 1_i64..700, channels in 1_i64..70, share in prop_oneof![0.05_f64..1.0, Just(1.0)], kind in 0_usize..3, clamps in 0_usize..3, halves in 0_usize..4,
            learns in any::<[bool; 2]>(), reach in prop_oneof![Just([1, 7]), Just([7, 9]), Just([8, 10])], seed in 0_i64..1000,
        ) {
            let kept = ((channels as f64 * share).ceil() as i64).clamp(1, channels);
            let halves = [Halves::Both, Halves::Both, Halves::NoAnalysis, Halves::NoSynthesis][halves];
            let clamps = [Clamp::NONE, Clamp { low: 0.0, high: f64::INFINITY }, Clamp { low: 0.0, high: 0.5 }][clamps];
            let activation = if halves == Halves::NoSynthesis { Clamp::NONE } else { clamps };
            let codes = [Codes::Unsigned, Codes::MidTread, Codes::MidRise][kind];
            let case = Case { learns, ..case(rows, channels, kept, codes, reach, seed) }.with(halves);
            let fused = carried_out(&case, activation, true);
            let reference = carried_out(&case, activation, false);
            let sum = (rows as f64).sqrt() / 5.0;
            prop_assert_eq!(fused.len(), reference.len());
            let limits = [(2e-6, 0.1), (1e-5, 0.1)].into_iter().chain(std::iter::repeat((1e-5, sum)));
            for (index, (tolerance, usual)) in limits.enumerate().take(fused.len()) {
                let found = difference(&fused[index], &reference[index], usual);
                prop_assert!(found <= tolerance, "result {index}: {found:e}");
            }
        }
    }

    #[test]
    fn values_that_are_no_numbers_stay_where_they_are() {
        let case = case(300, 8, 5, Codes::MidTread, [1, 7], 1);
        let _ = case.x.get(7).get(3).fill_(f64::NAN);
        let _ = case.x.get(290).get(0).fill_(f64::INFINITY);
        let activation = Clamp { low: 0.0, high: f64::INFINITY };
        let fused = carried_out(&case, activation, true).swap_remove(0);
        let reference = carried_out(&case, activation, false).swap_remove(0);
        let good = |t: &Tensor| t.isfinite().all_dim(1, false);
        assert_eq!(Vec::<bool>::try_from(good(&fused)).unwrap(), Vec::<bool>::try_from(good(&reference)).unwrap());
        assert_eq!(good(&fused).sum(Kind::Int64).int64_value(&[]), 299, "an infinity is a value out of range");
    }

    #[test]
    fn the_sums_do_not_depend_on_the_number_of_threads() {
        let threads = tch::get_num_threads();
        for (kept, reach, learns) in
            [(20, [1, 7], false), (24, [1, 7], false), (24, [8, 10], false), (20, [1, 7], true)]
        {
            let case = Case { learns: [learns; 2], ..case(5000, 24, kept, Codes::MidRise, reach, 2) };
            let found: Vec<Vec<Tensor>> = [1, 2, 3]
                .map(|count| {
                    tch::set_num_threads(count);
                    carried_out(&case, Clamp::NONE, true)
                })
                .into();
            tch::set_num_threads(threads);
            for other in &found[1..] {
                for (a, b) in found[0].iter().zip(other) {
                    assert_eq!(a, b);
                }
            }
        }
    }

    /// Not by way of the coefficients and back, which would round it.
    #[test]
    fn a_gradient_that_loses_nothing_comes_through_an_orthonormal_basis_as_it_is() {
        let mut case = case(400, 40, 40, Codes::MidTread, [20, 30], 4);
        let passed = carried_out(&case, Clamp::NONE, true);
        assert_eq!(passed[1], case.grad);
        case.orthonormal = false;
        let rounded = carried_out(&case, Clamp::NONE, true);
        assert_ne!(rounded[1], case.grad);
        assert!(difference(&rounded[1], &case.grad, 0.1) < 1e-5);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let refused = |case: &Case, x: &Tensor, activation: Clamp| {
            codec(x, &case.parts(), activation).expect_err("the shapes don't fit").to_string()
        };
        let wide = Tensor::zeros([4, 7], F);
        let whole = case(4, 6, 3, Codes::MidTread, [1, 7], 3);
        let text = refused(&whole, &wide, Clamp::NONE);
        assert!(text.contains("7 channels and 3 steps"), "{text}");
        let short = CodecParts { range: &whole.quantizer[1].narrow(0, 0, 2), ..whole.parts() };
        assert!(codec(&whole.x, &short, Clamp::NONE).unwrap_err().to_string().contains("3 steps, but a parameter"));
        let back = whole.with(Halves::NoAnalysis);
        assert!(refused(&back, &wide, Clamp::NONE).contains("7 coefficients, but 3 steps"));
        let none = CodecParts { synthesis: None, ..back.parts() };
        assert!(codec(&back.x, &none, Clamp::NONE).unwrap_err().to_string().contains("none at all"));
        let forth = case(4, 6, 3, Codes::MidTread, [1, 7], 3).with(Halves::NoSynthesis);
        let relu = Clamp { low: 0.0, high: f64::INFINITY };
        assert!(refused(&forth, &forth.x, relu).contains("no activation function"));
    }
}
