//! Packing and unpacking of activation codes against a memory copy: `cargo bench --bench container`.
//!
//! Throughput is in bytes of symbols (one a code), so that all widths compare with the copy of as many bytes.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dimbit::export::container::kernels::{self, packed_bytes};
use dimbit::export::container::{GroupLayout, Placement, Plan, Reader, SiteLayout, Writer};
use dimbit::libtorch::Codes;

/// Symbols of a run: ResNet18's first site at 224 pixels, one image.
const VALUES: usize = 64 * 112 * 112;

fn copy(c: &mut Criterion) {
    let from = vec![3_u8; VALUES];
    let mut to = vec![0_u8; VALUES];
    let mut group = c.benchmark_group("copy");
    group.throughput(Throughput::Bytes(VALUES as u64));
    group.bench_function("memory", |b| b.iter(|| black_box(&mut to).copy_from_slice(black_box(&from))));
}

fn widths(c: &mut Criterion) {
    for (name, unpacks) in [("pack", false), ("unpack", true)] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(VALUES as u64));
        for bits in 1..=8 {
            let mut symbols: Vec<u8> = (0..VALUES).map(|i| (i * 37) as u8 >> (8 - bits)).collect();
            let mut bytes = vec![0; packed_bytes(VALUES as u64, bits) as usize];
            kernels::pack(&symbols, bits, &mut bytes);
            group.bench_function(format!("{bits}"), |b| {
                b.iter(|| match unpacks {
                    false => kernels::pack(black_box(&symbols), bits, black_box(&mut bytes)),
                    true => kernels::unpack(black_box(&bytes), bits, black_box(&mut symbols)),
                })
            });
        }
    }
}

/// A whole container of one group of three bits, with checks and checksums; and an entropy-coded one.
fn container(c: &mut Criterion) {
    let codes: Vec<i16> =
        (0..VALUES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8).trailing_zeros() as i16 % 8).collect();
    let members = (0..64).collect();
    let site = SiteLayout {
        name: "relu".to_owned(),
        shape: vec![64, 112, 112],
        transform: "none".to_owned(),
        placement: Placement::After,
        means: vec![],
        basis: vec![],
        groups: vec![GroupLayout { members, step: 0.1, offset: 0.0, levels: 7, bits: 3, codes: Codes::Unsigned }],
    };
    let mut group = c.benchmark_group("container");
    group.throughput(Throughput::Elements(VALUES as u64));
    for (name, entropy) in [("packed", false), ("entropy-coded", true)] {
        let Ok(mut plan) = Plan::new(vec![site.clone()], 1) else { return };
        if entropy && plan.entropy_code(0, 0, &codes).is_err() {
            return;
        }
        let write = || {
            let mut writer = Writer::new(Vec::new(), &plan)?;
            writer.write_group(0, 0, &codes)?;
            writer.finish()
        };
        let bytes = write().unwrap_or_default();
        group.bench_function(format!("write {name}"), |b| b.iter(write));
        group.bench_function(format!("read {name}"), |b| {
            b.iter(|| Reader::from_bytes(&bytes).and_then(|mut reader| reader.codes(0, 0)))
        });
    }
}

criterion_group!(benches, copy, widths, container);
criterion_main!(benches);
