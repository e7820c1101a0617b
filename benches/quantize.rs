//! Throughput of the quantizer's forward and backward beside a copy of memory of the same size:
//! `cargo bench --bench quantize`, with `OMP_NUM_THREADS` for the number of threads.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dimbit::libtorch::{Clamp, Codes, quantize};
use tch::{Device, Kind, Tensor, no_grad};

/// `[rows, channels]` of sites of ResNet18 and MobileNetV2 at 224 pixels and batch 16.
const SHAPES: [(i64, i64); 6] = [(200_704, 64), (50_176, 64), (12_544, 256), (784, 512), (784, 960), (200_704, 16)];

const BYTES: u64 = 4;

fn benches(criterion: &mut Criterion) {
    for (rows, channels) in SHAPES {
        let shape = format!("{rows}x{channels}");
        let values = (rows * channels) as u64;
        let on_cpu = (Kind::Float, Device::Cpu);
        let z = Tensor::randn([rows, channels], on_cpu).set_requires_grad(true);
        let step = Tensor::full([channels], 0.25, on_cpu).set_requires_grad(true);
        let range = Tensor::full([channels], 1.75, on_cpu).set_requires_grad(true);
        let offset = Tensor::zeros([channels], on_cpu);
        let mut group = criterion.benchmark_group("quantize");

        // Reads and writes each value once.
        group.throughput(Throughput::Bytes(2 * BYTES * values));
        let mut copy = z.detach().zeros_like();
        group.bench_with_input(BenchmarkId::new("copy", &shape), &z.detach(), |bencher, z| {
            bencher.iter(|| copy.copy_(z));
        });
        group.bench_with_input(BenchmarkId::new("forward", &shape), &z, |bencher, z| {
            bencher.iter(|| {
                no_grad(|| quantize(z, &step, &range, &offset, Codes::MidTread, Clamp::NONE)).expect("the shapes fit")
            });
        });

        // Writes the gradient that arrives (that of a sum, which is ones), reads it and z, and writes that of z.
        group.throughput(Throughput::Bytes(4 * BYTES * values));
        let sum = quantize(&z, &step, &range, &offset, Codes::MidTread, Clamp::NONE)
            .expect("the shapes fit")
            .sum(Kind::Float);
        group.bench_with_input(BenchmarkId::new("backward", &shape), &sum, |bencher, sum| {
            bencher.iter(|| Tensor::run_backward(&[sum], &[&z, &step, &range], true, false));
        });
        group.finish();
    }
}

criterion_group! {
    name = quantizer;
    config = Criterion::default().sample_size(20);
    targets = benches
}
criterion_main!(quantizer);
