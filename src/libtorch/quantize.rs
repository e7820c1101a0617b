//! The quantizer's forward and straight-through backward.

use std::ffi::c_int;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::error::LibtorchError;
use super::ffi::{self, call};

/// An activation function that only clamps: ReLU from 0 to infinity, ReLU6 from 0 to 6.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clamp {
    /// Least value.
    pub low: f64,
    /// Greatest value.
    pub high: f64,
}

impl Clamp {
    /// None at all.
    pub const NONE: Self = Self { low: f64::NEG_INFINITY, high: f64::INFINITY };
}

/// Which codes a quantizer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum Codes {
    /// From 0 to n: for values that are not negative.
    Unsigned,
    /// From −n to n: 0 is a level of its own, and one code of a width is left unused.
    MidTread,
    /// 0 lies between two levels, half a step from either: all codes of a width are used, from `−2^(b−1)` to `2^(b−1) − 1`.
    MidRise,
}

impl Codes {
    /// What is added to whole levels, in steps.
    pub fn half(self) -> f64 {
        if self == Self::MidRise { 0.5 } else { 0.0 }
    }

    pub(super) fn as_int(self) -> c_int {
        self as c_int
    }
}

/// Uniform quantization `Q(z) = o + d · clamp(round((z − o)/d), low, n)` with `n = range/d`, and `low = −n` for mid-tread
/// codes, `0` for unsigned ones; for mid-rise ones `Q(z) = o + d · clamp(round((z − o)/d − ½) + ½, −n, n)`. A range of 0 drops
/// the channel: its output is the offset `o`.
///
/// Straight-through gradients (Uhlich et al., arXiv 1905.11452, eq. 3c): inside the range `∂Q/∂z = 1` and
/// `∂Q/∂d = (Q(z) − z)/d`; outside `∂Q/∂z = 0` and `∂Q/∂range = sign(z)`. The offset gets none.
///
/// `activation` comes first, in the same pass over memory: `Q(f(z))`, without a gradient of `z` where it clamps.
///
/// * `z`: `[rows, channels]`, or more dimensions with the channels last; copied where it is not contiguous
/// * `step`, `range`, `offset`: `[channels]`, step > 0
///
/// # Errors
/// If the shapes, kinds or devices don't fit, or on any failure of libtorch.
pub fn quantize(
    z: &Tensor,
    step: &Tensor,
    range: &Tensor,
    offset: &Tensor,
    codes: Codes,
    activation: Clamp,
) -> Result<Tensor, LibtorchError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: all tensors are live; the result is handed over.
    call(|error| unsafe {
        let [z, step, range, offset] = [z, step, range, offset].map(|t| t.as_ptr());
        ffi::dimbit_quantize(z, step, range, offset, codes.as_int(), activation.low, activation.high, &mut out, error)
    })
    .map_err(|reason| LibtorchError::Call { what: "quantize", reason })?;
    // SAFETY: set on success, owned by us.
    Ok(unsafe { Tensor::from_ptr(out) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use tch::{Device, Kind, Tensor};

    use super::*;

    /// Inputs in float64, channels last.
    #[derive(Debug, Clone)]
    struct Case {
        shape: Vec<i64>,
        z: Vec<f64>,
        /// The gradient that arrives at the output.
        grad: Vec<f64>,
        step: Vec<f64>,
        range: Vec<f64>,
        offset: Vec<f64>,
        codes: Codes,
    }

    const ALL: [Codes; 3] = [Codes::Unsigned, Codes::MidTread, Codes::MidRise];

    #[derive(Debug, Clone, PartialEq)]
    struct Found {
        out: Vec<f64>,
        grad_z: Vec<f64>,
        grad_step: Vec<f64>,
        grad_range: Vec<f64>,
    }

    /// The formulas of [`quantize`], one value at a time.
    fn closed_form(case: &Case) -> Found {
        let channels = case.step.len();
        let mut found = Found {
            out: vec![0.0; case.z.len()],
            grad_z: vec![0.0; case.z.len()],
            grad_step: vec![0.0; channels],
            grad_range: vec![0.0; channels],
        };
        for (i, (&z, &g)) in case.z.iter().zip(&case.grad).enumerate() {
            let c = i % channels;
            let (d, q, o) = (case.step[c], case.range[c], case.offset[c]);
            let t = z - o;
            let low = if case.codes == Codes::Unsigned { 0.0 } else { -q };
            let half = case.codes.half();
            let rounded = d * ((t / d - half).round_ties_even() + half);
            found.out[i] = if rounded > q {
                o + q
            } else if rounded < low {
                o + low
            } else {
                o + rounded
            };
            if t > q {
                found.grad_range[c] += g;
            } else if t < low {
                found.grad_range[c] -= if case.codes == Codes::Unsigned { 0.0 } else { g };
            } else {
                found.grad_z[i] = g;
                found.grad_step[c] += g * (rounded.clamp(low, q) - t) / d;
            }
        }
        found
    }

    fn tensor(values: &[f64], shape: &[i64], kind: Kind) -> Tensor {
        Tensor::from_slice(values).reshape(shape).to_kind(kind)
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.detach().to_kind(Kind::Double).reshape([-1])).unwrap()
    }

    fn measured(case: &Case, kind: Kind) -> Found {
        measured_on(case, kind, Device::Cpu)
    }

    fn measured_on(case: &Case, kind: Kind, device: Device) -> Found {
        let channels = [case.step.len() as i64];
        let tensor = |values: &[f64], shape: &[i64], kind| tensor(values, shape, kind).to_device(device);
        let z = tensor(&case.z, &case.shape, kind).set_requires_grad(true);
        let [step, range, offset] = [&case.step, &case.range, &case.offset].map(|v| tensor(v, &channels, kind));
        let (step, range) = (step.set_requires_grad(true), range.set_requires_grad(true));
        let out = quantize(&z, &step, &range, &offset, case.codes, Clamp::NONE).unwrap();
        assert_eq!((out.size(), out.kind()), (case.shape.clone(), kind));
        (&out * tensor(&case.grad, &case.shape, kind)).sum(kind).backward();
        Found {
            out: values(&out),
            grad_z: values(&z.grad()),
            grad_step: values(&step.grad()),
            grad_range: values(&range.grad()),
        }
    }

    #[track_caller]
    fn assert_close(a: &Found, b: &Found, value: f64, sum: f64) {
        let close = |a: &[f64], b: &[f64], tolerance: f64| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance)
        };
        assert!(close(&a.out, &b.out, value), "output: {:?} {:?}", a.out, b.out);
        assert!(close(&a.grad_z, &b.grad_z, value), "∂/∂z: {:?} {:?}", a.grad_z, b.grad_z);
        assert!(close(&a.grad_step, &b.grad_step, sum), "∂/∂step: {:?} {:?}", a.grad_step, b.grad_step);
        assert!(close(&a.grad_range, &b.grad_range, sum), "∂/∂range: {:?} {:?}", a.grad_range, b.grad_range);
    }

    /// A case whose values keep a distance from where the rounding or the range decides, so that float32 and float64
    /// decide alike.
    fn random_case(shape: Vec<i64>, codes: Codes, seed: u64) -> Case {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let channels = shape[shape.len() - 1] as usize;
        let count: usize = shape.iter().map(|&n| n as usize).product();
        let mut draw = |low: f64, high: f64| random.random_range(low..high);
        let step: Vec<f64> = (0..channels).map(|_| draw(0.05, 0.5)).collect();
        // n from 1 to 15, between whole numbers; every fourth channel is dropped.
        let range: Vec<f64> = step
            .iter()
            .enumerate()
            .map(|(c, d)| if c % 4 == 3 { 0.0 } else { d * (draw(1.0, 15.0).floor() + draw(0.1, 0.4)) })
            .collect();
        let offset: Vec<f64> = (0..channels).map(|_| draw(-1.0, 1.0)).collect();
        let z = (0..count)
            .map(|i| {
                let c = i % channels.max(1);
                loop {
                    let t = step[c] * (draw(-20.0, 20.0).round() + codes.half() + draw(-0.45, 0.45));
                    if (t.abs() - range[c]).abs() > 1e-3 * step[c] && t.abs() > 1e-3 * step[c] {
                        break offset[c] + t;
                    }
                }
            })
            .collect();
        let grad = (0..count).map(|_| draw(-1.0, 1.0)).collect();
        Case { shape, z, grad, step, range, offset, codes }
    }

    fn shapes() -> impl Strategy<Value = Vec<i64>> {
        // Rows that share a vector register, rows that fill some and leave a rest, and rows longer than the kernel's tile.
        let channels = prop_oneof![4 => 1_i64..7, 2 => 7_i64..70, 1 => 250_i64..300];
        (prop::collection::vec(1_i64..6, 1..5), channels).prop_map(|(mut shape, channels)| {
            shape.push(channels);
            shape
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn both_paths_follow_the_formulas(shape in shapes(), codes in prop::sample::select(&ALL), seed: u64) {
            let case = random_case(shape, codes, seed);
            let terms = case.z.len() as f64;
            let expected = closed_form(&case);
            // In float64 only the order of sums and t·(1/d) for t/d differ.
            assert_close(&measured(&case, Kind::Double), &expected, 1e-13, 1e-12 * terms);
            // In float32 a value is at most 1 + 0.5 · 15.4 in size and rounded about four times. A term of ∂/∂step is
            // a difference of numbers of up to 16, each right to 2⁻²³ of its size after two roundings of z.
            assert_close(&measured(&case, Kind::Float), &expected, 9.0 * 4.0 * 2_f64.powi(-24), 2e-5 * terms);
        }

        #[test]
        fn the_kernel_agrees_with_the_reference(shape in shapes(), codes in prop::sample::select(&ALL), seed: u64) {
            let case = random_case(shape, codes, seed);
            let terms = case.z.len() as f64;
            let (kernel, reference) = (measured(&case, Kind::Float), measured(&case, Kind::Double));
            assert_close(&kernel, &reference, 9.0 * 4.0 * 2_f64.powi(-24), 2e-5 * terms);
        }
    }

    /// One channel in float32-exact numbers, so that both paths meet rounding and range exactly.
    fn exact(z: &[f64], step: f64, range: f64, offset: f64, codes: Codes) -> Case {
        Case {
            shape: vec![z.len() as i64, 1],
            z: z.to_vec(),
            grad: (0..z.len()).map(|i| 1.0 + i as f64).collect(),
            step: vec![step],
            range: vec![range],
            offset: vec![offset],
            codes,
        }
    }

    #[test]
    fn at_the_edges_both_paths_follow_the_formulas_exactly() {
        let edges =
            [-4.0, -3.25, -3.0, -2.75, -0.75, -0.5, -0.25, -0.0, 0.0, 0.25, 0.5, 0.75, 1.25, 2.75, 3.0, 3.25, 4.0];
        for codes in ALL {
            for offset in [0.0, -0.5, 2.0] {
                // n = 6, n = 5.5 (no whole number), n = 1, n below a half, and a dropped channel.
                for range in [3.0, 2.75, 0.5, 0.125, 0.0] {
                    let z = edges.map(|t| t + offset);
                    let case = exact(&z, 0.5, range, offset, codes);
                    let expected = closed_form(&case);
                    for kind in [Kind::Float, Kind::Double] {
                        assert_close(&measured(&case, kind), &expected, 0.0, 0.0);
                    }
                }
            }
        }
    }

    #[test]
    #[ignore = "needs a CUDA device: cargo test --release --lib -- --ignored cuda"]
    fn cuda_follows_the_same_formulas() {
        let random = [vec![2, 3, 5], vec![64, 7], vec![1, 300], vec![4, 12, 12, 64], vec![0, 3]];
        for (seed, shape) in (0..).zip(random) {
            for codes in ALL {
                let case = random_case(shape.clone(), codes, seed);
                let terms = case.z.len() as f64;
                let found = measured_on(&case, Kind::Float, Device::Cuda(0));
                // The tolerances of `both_paths_follow_the_formulas`.
                assert_close(&found, &closed_form(&case), 9.0 * 4.0 * 2_f64.powi(-24), 2e-5 * terms);
            }
        }
        let edges = [-3.25, -3.0, -2.75, -0.75, -0.25, -0.0, 0.0, 0.25, 0.75, 2.75, 3.0, 3.25, f64::INFINITY, f64::NAN];
        let (unsigned, tread, rise) = (Codes::Unsigned, Codes::MidTread, Codes::MidRise);
        for (codes, range) in [(unsigned, 3.0), (tread, 3.0), (tread, 2.75), (tread, 0.0), (rise, 3.25), (rise, 0.125)]
        {
            let case = exact(&edges, 0.5, range, 0.25, codes);
            let (found, on_cpu) = (measured_on(&case, Kind::Float, Device::Cuda(0)), measured(&case, Kind::Float));
            assert_close(&found, &on_cpu, 0.0, 0.0);
        }
    }

    #[test]
    fn numbers_that_a_reader_can_check() {
        // d = 0.5, range 1 (n = 2), offset 0: halves round to even, and what lies at the range is inside.
        let case = exact(&[0.3, 0.25, 0.75, 1.0, 1.1, -0.3, -7.0], 0.5, 1.0, 0.0, Codes::MidTread);
        let found = measured(&case, Kind::Double);
        assert_eq!(found.out, [0.5, 0.0, 1.0, 1.0, 1.0, -0.5, -1.0]);
        assert_eq!(found.grad_z, [1.0, 2.0, 3.0, 4.0, 0.0, 6.0, 0.0]);
        assert_eq!(found.grad_range, [5.0 - 7.0]);
        // Σ g · (Q − z)/d over the first four and the sixth.
        let expected = 1.0 * 0.4 + 2.0 * -0.5 + 3.0 * 0.5 + 0.0 + 6.0 * -0.4;
        assert!((found.grad_step[0] - expected).abs() < 1e-12);
        let unsigned = measured(&Case { codes: Codes::Unsigned, ..case }, Kind::Double);
        assert_eq!(unsigned.out, [0.5, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(unsigned.grad_range, [5.0], "below zero the range has no say");
        // Four levels in two bits, ±¼ and ±¾; a value of 0 lies on the boundary of the inner ones, and rounds up.
        let rise = exact(&[0.3, 0.5, -0.1, 0.0, -0.7, 0.8, -9.0], 0.5, 0.75, 0.0, Codes::MidRise);
        let found = measured(&rise, Kind::Double);
        assert_eq!(found.out, [0.25, 0.25, -0.25, 0.25, -0.75, 0.75, -0.75]);
        assert_eq!(found.grad_z, [1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0]);
        assert_eq!(found.grad_range, [6.0 - 7.0]);
    }

    #[test]
    fn values_are_those_of_the_plain_formula_to_the_last_bit() {
        // Exports spell the formula out. A product and a sum that are rounded once in place of twice would give other digits.
        for codes in ALL {
            let case = random_case(vec![40, 300], codes, 7);
            let channels = case.step.len();
            let expected = case.z.iter().enumerate().map(|(i, &z)| {
                let [d, range, offset] = [&case.step, &case.range, &case.offset].map(|of| of[i % channels] as f32);
                let (half, sign) = (codes.half() as f32, if codes == Codes::Unsigned { 0.0 } else { -1.0 });
                let center = offset + half * d;
                let (low, high) = (sign * (range / d) - half, range / d - half);
                let level = ((z as f32 - center) * (1.0 / d)).round_ties_even().max(low).min(high);
                f64::from(center + d * level)
            });
            assert_eq!(measured(&case, Kind::Float).out, expected.collect::<Vec<_>>(), "{codes:?}");
        }
    }

    #[test]
    fn a_dropped_channel_gives_its_offset() {
        for kind in [Kind::Float, Kind::Double] {
            for codes in ALL {
                let case = exact(&[-9.0, 0.0, 0.75, 2.0, 9.0], 0.25, 0.0, 0.75, codes);
                assert_eq!(measured(&case, kind).out, [0.75; 5]);
            }
        }
    }

    #[test]
    fn gradients_outside_the_range_are_those_of_finite_differences() {
        // Out there the quantizer is differentiable: it is offset ± range. (Inside it is a staircase, and the gradients
        // are straight-through ones.)
        const H: f64 = 1e-6;
        for codes in ALL {
            let case = exact(&[2.1, 5.0, -2.2, -8.0, 3.3], 0.3, 1.9, 0.1, codes);
            let loss = |case: &Case| {
                let out = measured(case, Kind::Double).out;
                out.iter().zip(&case.grad).map(|(o, g)| o * g).sum::<f64>()
            };
            let slope = |change: &dyn Fn(&mut Case, f64)| {
                let [mut up, mut down] = [case.clone(), case.clone()];
                change(&mut up, H);
                change(&mut down, -H);
                (loss(&up) - loss(&down)) / (2.0 * H)
            };
            let found = measured(&case, Kind::Double);
            // Rounding: the loss is about 100 · 2⁻⁵³ uncertain, over 2·10⁻⁶.
            let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-7, "{a} {b}");
            near(found.grad_range[0], slope(&|c, h| c.range[0] += h));
            near(found.grad_step[0], slope(&|c, h| c.step[0] += h));
            for i in 0..case.z.len() {
                near(found.grad_z[i], slope(&|c, h| c.z[i] += h));
            }
        }
    }

    #[test]
    fn many_rows_sum_up_accurately() {
        // The stem of a network at 224 pixels: 25,088 terms a channel, in both paths.
        let case = random_case(vec![2, 112, 112, 2], Codes::MidRise, 5);
        let case = Case { grad: case.grad.iter().map(|g| g.abs()).collect(), ..case };
        let (kernel, reference) = (measured(&case, Kind::Float), measured(&case, Kind::Double));
        // A term is right to about 16 · 2⁻²³, and such errors have no preferred sign; sums are of 64 terms in float32.
        let of = |a: f64, b: f64| (a - b).abs() / case.z.len() as f64;
        for c in 0..2 {
            assert!(of(kernel.grad_step[c], reference.grad_step[c]) < 1e-6);
            assert!(of(kernel.grad_range[c], reference.grad_range[c]) < 1e-6);
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let threads = tch::get_num_threads();
        // Fewer strips than blocks, several strips a block (with a rest), and long rows.
        for shape in [vec![3, 30, 40, 24], vec![90_001, 37], vec![700, 1280]] {
            let case = random_case(shape, Codes::MidTread, 3);
            // The setting is this thread's own.
            let [one, two] = [1, 2].map(|threads| {
                tch::set_num_threads(threads);
                measured(&case, Kind::Float)
            });
            assert!(one == two, "{:?}", case.shape);
        }
        tch::set_num_threads(threads);
    }

    #[test]
    fn what_is_not_finite_stays_visible_and_does_no_other_harm() {
        let z = [f64::INFINITY, f64::NEG_INFINITY, 0.3, f64::MAX, 1e30, -1e30];
        for codes in [Codes::Unsigned, Codes::MidTread] {
            let case = exact(&z, 0.5, 1.0, 0.25, codes);
            for kind in [Kind::Float, Kind::Double] {
                let found = measured(&case, kind);
                let low = if codes == Codes::MidTread { -0.75 } else { 0.25 };
                assert_eq!(found.out, [1.25, low, 0.25, 1.25, 1.25, low]);
                assert_eq!(found.grad_z, [0.0, 0.0, 3.0, 0.0, 0.0, 0.0]);
                assert!(found.grad_step[0].is_finite() && found.grad_range[0].is_finite());
            }
            // Codes can't hold a NaN, but hiding it would hide that the training has diverged.
            let case = exact(&[0.3, f64::NAN, 0.8], 0.5, 1.0, 0.25, codes);
            for kind in [Kind::Float, Kind::Double] {
                let found = measured(&case, kind);
                assert_eq!((found.out[0], found.out[2]), (0.25, 0.75));
                assert!(found.out[1].is_nan() && found.grad_step[0].is_nan());
                assert_eq!(found.grad_range, [0.0]);
            }
        }
    }

    #[test]
    fn the_layout_in_memory_makes_no_difference() {
        // `[batch, height, width, channels]`.
        let case = random_case(vec![3, 5, 6, 4], Codes::MidRise, 11);
        let expected = measured(&case, Kind::Float);
        let options = (Kind::Float, Device::Cpu);
        let plain = tensor(&case.z, &case.shape, Kind::Float);
        // Channels first in memory, every second channel of a wider tensor, and transposed.
        let channels_first = plain.permute([0, 3, 1, 2]).contiguous().permute([0, 2, 3, 1]);
        let wide = Tensor::zeros([3, 5, 6, 8], options);
        wide.slice(3, 0, 8, 2).copy_(&plain);
        let transposed = plain.transpose(1, 2).contiguous().transpose(1, 2);
        // Parameters with gaps as well.
        let gaps = |v: &[f64]| tensor(v, &[4, 1], Kind::Float).expand([4, 3], false).contiguous().select(1, 1);
        for z in [channels_first, wide.slice(3, 0, 8, 2), transposed] {
            assert!(!z.is_contiguous());
            let z = z.detach().set_requires_grad(true);
            let [step, range] = [&case.step, &case.range].map(|v| gaps(v).detach().set_requires_grad(true));
            let out = quantize(&z, &step, &range, &gaps(&case.offset), Codes::MidRise, Clamp::NONE).unwrap();
            // A gradient with gaps.
            let grad = tensor(&case.grad, &case.shape, Kind::Float).permute([3, 1, 2, 0]).contiguous();
            (out.permute([3, 1, 2, 0]) * grad).sum(Kind::Float).backward();
            let found = Found {
                out: values(&out),
                grad_z: values(&z.grad()),
                grad_step: values(&step.grad()),
                grad_range: values(&range.grad()),
            };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn nothing_in_is_nothing_out() {
        for kind in [Kind::Float, Kind::Double] {
            for shape in [vec![0, 2, 2, 3], vec![2, 0, 3], vec![0, 3], vec![2, 0]] {
                let case = random_case(shape, Codes::MidTread, 1);
                let found = measured(&case, kind);
                assert_eq!((found.out.len(), found.grad_step), (0, vec![0.0; case.step.len()]));
            }
        }
    }

    #[test]
    fn an_activation_in_the_same_pass_is_the_activation_in_front() {
        let on_cpu = (Kind::Float, Device::Cpu);
        let random = Tensor::randn([301, 7], on_cpu) * 4.0;
        let [step, range, offset] = [0.37, 3.7, 0.0].map(|v| Tensor::full([7], v, on_cpu));
        for clamp in
            [Clamp { low: 0.0, high: f64::INFINITY }, Clamp { low: 0.0, high: 6.0 }, Clamp { low: -1.0, high: 1.0 }]
        {
            for kind in [Kind::Float, Kind::Double] {
                let [one, two] = [true, false].map(|together| {
                    let z = random.to_kind(kind).copy().set_requires_grad(true);
                    let [step, range] = [&step, &range].map(|t| t.to_kind(kind).copy().set_requires_grad(true));
                    let offset = offset.to_kind(kind);
                    let out = if together {
                        quantize(&z, &step, &range, &offset, Codes::MidTread, clamp)
                    } else {
                        let in_front = if clamp.high.is_finite() { z.clamp(clamp.low, clamp.high) } else { z.relu() };
                        quantize(&in_front, &step, &range, &offset, Codes::MidTread, Clamp::NONE)
                    };
                    let out = out.unwrap();
                    (&out * &out).sum(kind).backward();
                    [out, z.grad(), step.grad(), range.grad()]
                });
                for index in [0, 1, 3] {
                    assert_eq!(one[index], two[index], "{clamp:?} {kind:?}");
                }
                // Behind a clamp in front, what a value at the bound was rounded by is kept in units of 2⁻²⁴ steps.
                let of_step = (&one[2] - &two[2]).abs().max().double_value(&[]);
                assert!(of_step <= 1e-6 * two[2].abs().max().double_value(&[]), "{clamp:?} {kind:?}: {of_step:e}");
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_an_error() {
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
        let three = ones(&[3]);
        let refused = |z: &[i64], step: &Tensor, range: &Tensor, offset: &Tensor| {
            let error = quantize(&ones(z), step, range, offset, Codes::MidTread, Clamp::NONE).unwrap_err().to_string();
            assert!(error.contains("quantize") && !error.contains("frame #"), "{error}");
        };
        refused(&[3], &three, &three, &three);
        refused(&[], &three, &three, &three);
        refused(&[2, 3, 5], &three, &three, &three);
        refused(&[2, 5, 3], &ones(&[1]), &three, &three);
        refused(&[2, 5, 3], &three, &ones(&[4]), &three);
        refused(&[2, 5, 3], &three, &three, &ones(&[3, 1]));
        let double = three.to_kind(Kind::Double);
        refused(&[2, 5, 3], &double, &three, &three);
    }
}
