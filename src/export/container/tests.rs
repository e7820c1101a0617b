use proptest::prelude::*;

use super::kernels::packed_bytes;
use super::*;
use crate::libtorch::Codes;

mod damage;

fn group(members: &[u32], bits: u8, codes: Codes) -> GroupLayout {
    let levels = (1 << (bits - u8::from(codes != Codes::Unsigned))) - 1;
    GroupLayout { members: members.to_vec(), step: 0.25, offset: -0.5, levels, bits, codes }
}

/// A site without a transform: unsigned codes of 1 and 3 bits and a dropped group.
fn plain() -> SiteLayout {
    SiteLayout {
        name: "features.0".to_owned(),
        shape: vec![4, 2, 3],
        transform: "none".to_owned(),
        placement: Placement::After,
        means: vec![0.5, 1.0, 1.5, 2.0],
        basis: vec![],
        groups: vec![
            group(&[3, 0], 3, Codes::Unsigned),
            GroupLayout::dropped(vec![1]),
            group(&[2], 1, Codes::Unsigned),
        ],
    }
}

/// A site with a basis of two kept columns.
fn pca() -> SiteLayout {
    SiteLayout {
        name: "layer1.0.relu#2".to_owned(),
        shape: vec![3, 5],
        transform: "pca".to_owned(),
        placement: Placement::Before,
        means: vec![],
        basis: vec![0.6, 0.8, 0.0, -0.8, 0.6, 0.0],
        groups: vec![group(&[0, 1], 4, Codes::MidTread), GroupLayout::dropped(vec![2])],
    }
}

/// A site of which nothing is left.
fn gone() -> SiteLayout {
    let groups = vec![GroupLayout::dropped(vec![0])];
    SiteLayout { name: "gone".to_owned(), shape: vec![1], means: vec![0.0], groups, ..plain() }
}

/// Codes of a group, all levels in turn.
fn ramp(group: &GroupLayout, values: u64) -> Vec<i16> {
    let range = group.range();
    (range.least..=range.most).cycle().take(values as usize).collect()
}

/// Writes each group's `codes`.
fn write(plan: &Plan, codes: impl Fn(usize, usize) -> Vec<i16>) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), plan).unwrap();
    while let Some((site, group)) = writer.next_group() {
        writer.write_group(site, group, &codes(site, group)).unwrap();
    }
    writer.finish().unwrap()
}

fn ramps(plan: &Plan) -> impl Fn(usize, usize) -> Vec<i16> {
    |site, group| {
        let stored = &plan.sites()[site];
        ramp(&stored.layout().groups[group], stored.values(group).unwrap())
    }
}

/// A container of three sites and two images.
fn example() -> (Plan, Vec<u8>) {
    let plan = Plan::new(vec![plain(), gone(), pca()], 2).unwrap();
    let bytes = write(&plan, ramps(&plan));
    (plan, bytes)
}

#[test]
fn every_byte_is_accounted_for() {
    let (plan, bytes) = example();
    let sizes = plan.sizes();
    assert_eq!(bytes.len() as u64, sizes.total());
    // 2·6·2 values of 3 bits, 2·6 of 1; 2·5·2 of 4.
    assert_eq!(sizes.payload_bytes, (9 + 2) + 10);
    // Name, transform, placement, shape, means, basis; 12 bytes a group, 2 a member.
    let plain = 10 + 4 + 1 + 12 + 16 + 3 * 12 + 4 * 2;
    let gone = 4 + 4 + 1 + 4 + 4 + 12 + 2;
    let pca = 15 + 3 + 1 + 8 + 24 + 2 * 12 + 3 * 2;
    assert_eq!(sizes.side_information_bytes, plain + gone + pca);
    // The container's own, 30 a site, 13 a group and 4 for each that is stored.
    assert_eq!(sizes.header_bytes, 36 + 4 + 3 * 30 + 6 * 13 + 3 * 4);

    let of_groups = Sizes { payload_bytes: 9, side_information_bytes: 16, header_bytes: 17 };
    assert_eq!(plan.sites()[0].group_sizes(0), Some(of_groups));
    let dropped = Sizes { payload_bytes: 0, side_information_bytes: 14, header_bytes: 13 };
    assert_eq!(plan.sites()[0].group_sizes(1), Some(dropped));
    assert_eq!(plan.sites()[0].group_sizes(3), None);
    assert_eq!(Reader::from_bytes(&bytes).unwrap().verify().unwrap(), sizes);
}

#[test]
fn what_is_read_is_what_was_written() {
    let (plan, bytes) = example();
    let mut reader = Reader::from_bytes(&bytes).unwrap();
    assert_eq!(reader.images(), 2);
    assert_eq!(reader.names().collect::<Vec<_>>(), ["features.0", "gone", "layer1.0.relu#2"]);
    assert_eq!(reader.find("gone"), Some(1));
    // From back to front: no order is asked for.
    for (number, site) in plan.sites().iter().enumerate().rev() {
        assert_eq!(reader.site(number).unwrap(), site);
        for (group, layout) in site.layout().groups.iter().enumerate().rev() {
            let expected = if layout.bits == 0 { vec![] } else { ramps(&plan)(number, group) };
            assert_eq!(reader.codes(number, group).unwrap(), expected);
        }
    }
    assert!(matches!(reader.codes(0, 3), Err(ContainerError::NoSuchGroup { site: 0, group: 3 })));
    assert!(matches!(reader.codes(3, 0), Err(ContainerError::NoSuchSite { site: 3, sites: 3 })));
}

#[test]
fn the_payload_is_the_packed_codes() {
    let (_, bytes) = example();
    // The last payload: codes −7 to 7, twice 20 in all, as symbols 1 to 15 of four bits; its checksum follows.
    let payload = &bytes[bytes.len() - 14..bytes.len() - 4];
    assert_eq!(payload, [0x21, 0x43, 0x65, 0x87, 0xA9, 0xCB, 0xED, 0x1F, 0x32, 0x54]);
}

#[test]
fn a_group_is_read_without_the_rest() {
    struct Counted<'a>(std::io::Cursor<&'a [u8]>, u64);
    impl std::io::Read for Counted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let read = self.0.read(buffer)?;
            self.1 += read as u64;
            Ok(read)
        }
    }
    impl std::io::Seek for Counted<'_> {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }

    // 4 MB in the first site and in the first group of the second.
    let large = SiteLayout { shape: vec![4, 1000, 1000], ..plain() };
    let plan = Plan::new(vec![large.clone(), SiteLayout { name: "second".to_owned(), ..large }], 2).unwrap();
    let bytes = write(&plan, ramps(&plan));
    let mut counted = Counted(std::io::Cursor::new(&bytes), 0);
    let mut reader = Reader::open(&mut counted).unwrap();
    assert_eq!(reader.codes(1, 2).unwrap(), ramps(&plan)(1, 2));
    // 250,000 bytes of one bit each, the rest twice as magic is looked at first.
    assert!((250_000..250_600).contains(&counted.1), "{} bytes were read", counted.1);
}

#[test]
fn entropy_coding_is_used_where_it_is_smaller() {
    let site = SiteLayout { shape: vec![4, 40, 40], ..plain() };
    let mut plan = Plan::new(vec![site], 3).unwrap();
    let packed = plan.clone();
    let skewed: Vec<i16> = (0..9600).map(|i| if i % 10 == 0 { 1 + i / 10 % 7 } else { 0 }).collect();
    let even = ramps(&packed)(0, 2);

    let coded = plan.entropy_code(0, 0, &skewed).unwrap();
    let not = plan.entropy_code(0, 2, &even).unwrap();
    // 9 in 10 zeros, 7 others: H(0.1) + 0.1·log2(7) = 0.75 bits.
    assert!((coded.bits / 9600.0 - 0.7497).abs() < 1e-3, "{coded:?}");
    assert!((coded.coded_bytes as f64 - coded.bits / 8.0) < 32.0);
    // Even bits can't be coded: the table comes on top.
    assert_eq!(not.bits, 4800.0);
    assert!(not.coded_bytes > 600);
    assert_eq!(
        [0, 1, 2].map(|group| plan.sites()[0].coding(group).unwrap()),
        [Coding::Coded, Coding::Dropped, Coding::Packed]
    );
    assert_eq!(plan.sizes().payload_bytes, coded.coded_bytes + 600);

    let codes = |_, group| if group == 0 { skewed.clone() } else { even.clone() };
    let bytes = write(&plan, codes);
    assert_eq!(bytes.len() as u64, plan.sizes().total());
    let mut reader = Reader::from_bytes(&bytes).unwrap();
    assert_eq!(reader.codes(0, 0).unwrap(), skewed);
    assert_eq!(reader.verify().unwrap(), plan.sizes());

    let mut writer = Writer::new(Vec::new(), &plan).unwrap();
    let other = vec![0; 9600];
    assert!(matches!(writer.write_group(0, 0, &other), Err(ContainerError::PlanDiffers { site: 0, group: 0, .. })));
    // The plan follows the codes that it saw last.
    plan.entropy_code(0, 0, &ramps(&packed)(0, 0)).unwrap();
    assert_eq!(plan, packed);
}

#[test]
fn codes_that_do_not_fit_are_refused_before_a_byte_is_written() {
    let plan = Plan::new(vec![gone(), pca()], 1).unwrap();
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, &plan).unwrap();
    let order = writer.write_group(0, 0, &[]).unwrap_err();
    assert_eq!(order.to_string(), "group 0 of site 0 was given, next comes group 0 of site 1");
    let count = writer.write_group(1, 0, &[0; 9]).unwrap_err();
    assert_eq!(count.to_string(), "group 0 of site 1 has 10 values, but 9 codes were given");
    let code = writer.write_group(1, 0, &[0, 7, -7, -8, 8, 0, 0, 0, 0, 0]).unwrap_err();
    assert_eq!(code.to_string(), "group 0 of site 1: code 3 is -8, its levels reach from -7 to 7");
    writer.write_group(1, 0, &[1; 10]).unwrap();
    let end = writer.write_group(1, 1, &[]).unwrap_err();
    assert_eq!(end.to_string(), "group 1 of site 1 was given, next comes the end");
    writer.finish().unwrap();
    assert_eq!(out.len() as u64, plan.sizes().total());

    let unfinished = Writer::new(Vec::new(), &plan).unwrap().finish().unwrap_err();
    assert_eq!(unfinished.to_string(), "the container is not complete: group 0 of site 1 is missing");
}

#[test]
fn descriptions_that_make_no_sense_are_refused() {
    let fault = |change: &dyn Fn(&mut SiteLayout)| {
        let mut site = plain();
        change(&mut site);
        Plan::new(vec![site], 1).unwrap_err().to_string()
    };
    assert_eq!(
        fault(&|site| site.groups[2].bits = 9),
        "site `features.0`, group 2: the width is 9 bits, it must be 0 (dropped) or 1 to 8"
    );
    assert_eq!(
        fault(&|site| site.groups[2].codes = Codes::MidTread),
        "site `features.0`, group 2: the width is 1 bits, it must be 0 (dropped) or 2 to 8"
    );
    assert!(
        fault(&|site| site.groups[0].levels = 8).contains("8 levels don't fit a width of 3 bits, which has at most 7")
    );
    assert!(fault(&|site| site.groups[0].levels = 0).contains("0 levels"));
    assert!(fault(&|site| site.groups[0].step = 0.0).contains("the step is 0"));
    assert!(fault(&|site| site.groups[0].offset = f32::NAN).contains("the offset must be finite"));
    assert!(fault(&|site| site.groups[0].members[0] = 4).contains("no member 4 among 4 channels"));
    assert!(fault(&|site| site.groups[0].members[0] = 1).contains("member 1 is there twice"));
    assert!(fault(&|site| site.means.truncate(3)).contains("the means have 3 numbers, it must be 4 or none"));
    assert!(fault(&|site| site.basis = vec![0.0; 16]).contains("the basis have 16 numbers, it must be 12 or none"));
    assert!(fault(&|site| site.means[1] = f32::INFINITY).contains("the means must be finite"));
    assert!(fault(&|site| site.shape[2] = 0).contains("the shape [4, 2, 0] must have"));
    assert!(fault(&|site| site.shape = vec![4, u32::MAX, u32::MAX]).contains("more than 2^59 values"));
    assert!(fault(&|site| site.name = "x".repeat(1 << 16)).contains("the name has 65536 bytes"));
    let twice = Plan::new(vec![plain(), plain()], 1).unwrap_err();
    assert_eq!(twice.to_string(), "the container has two sites named `features.0`");
}

#[test]
fn floats_must_be_whole() {
    assert_eq!(whole_codes(&[0.0, -0.0, 255.0, -127.0]).unwrap(), [0, 0, 255, -127]);
    for value in [0.5, 256.0, -300.0, f32::NAN, f32::INFINITY, 1e20] {
        assert!(matches!(whole_codes(&[1.0, value]), Err(ContainerError::NotWhole { index: 1, .. })), "{value}");
    }
}

#[test]
fn members_beyond_two_bytes_take_four() {
    let site = SiteLayout {
        shape: vec![70_000],
        means: vec![],
        groups: vec![group(&[69_999, 3], 5, Codes::MidTread)],
        ..plain()
    };
    let plan = Plan::new(vec![site], 1).unwrap();
    assert_eq!(plan.sites()[0].group_sizes(0).unwrap().side_information_bytes, 12 + 8);
    let bytes = write(&plan, |_, _| vec![-15, 15]);
    assert_eq!(bytes.len() as u64, plan.sizes().total());
    assert_eq!(Reader::from_bytes(&bytes).unwrap().site(0).unwrap(), &plan.sites()[0]);
}

/// Members of a site dealt to groups of random widths and kinds of codes.
fn any_site(number: usize) -> impl Strategy<Value = SiteLayout> {
    let kinds = prop::collection::vec((0_u8..=8, 0_usize..3, 0.001_f32..10.0), 1..5);
    let dealt = (1_usize..12).prop_flat_map(|channels| prop::collection::vec(0_usize..5, channels));
    (kinds, dealt, prop::collection::vec(1_u32..5, 0..3), any::<(bool, bool, bool)>()).prop_map(
        move |(kinds, dealt, positions, (before, means, basis))| {
            let groups = kinds.iter().enumerate().map(|(g, &(bits, kind, step))| {
                let codes = [Codes::Unsigned, Codes::MidTread, Codes::MidRise][kind];
                let members = (0..dealt.len()).filter(|&m| dealt[m] == g).map(|m| m as u32).rev().collect();
                let bits = if bits == 1 && codes == Codes::MidTread { 2 } else { bits };
                let most = if bits == 0 { 0 } else { (1_u16 << (bits - u8::from(codes != Codes::Unsigned))) - 1 };
                // Often not all levels of the width.
                let levels = if dealt.len() % 2 == 0 { most } else { most.div_ceil(2) };
                GroupLayout { members, step, offset: step - 1.0, levels, bits, codes }
            });
            let mut site = SiteLayout {
                name: format!("site.{number}"),
                shape: std::iter::once(dealt.len() as u32).chain(positions).collect(),
                transform: if basis { "pca" } else { "" }.to_owned(),
                placement: if before { Placement::Before } else { Placement::After },
                means: if means { vec![0.5; dealt.len()] } else { vec![] },
                basis: vec![],
                groups: groups.collect(),
            };
            if basis {
                site.basis = (0..site.kept() * dealt.len() as u64).map(|i| i as f32 / 8.0).collect();
            }
            site
        },
    )
}

/// Codes of a group from a seed: all levels, or mostly 0.
fn noise(group: &GroupLayout, values: u64, seed: u64) -> Vec<i16> {
    let range = group.range();
    let span = (range.most - range.least) as u64 + 1;
    let mut state = seed | 1;
    let draw = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let skewed = seed & 3 == 0 && state >> 60 != 0;
        if skewed { 0 } else { range.least + ((state >> 33) % span) as i16 }
    };
    (0..values).map(draw).collect()
}

/// A plan, where `entropy` with entropy coding, and its container.
fn container(sites: Vec<SiteLayout>, images: u32, seed: u64, entropy: bool) -> (Plan, Vec<u8>) {
    let mut plan = Plan::new(sites, images).unwrap();
    let plain = plan.clone();
    let codes = |site: usize, group: usize| {
        let stored = &plain.sites()[site];
        noise(&stored.layout().groups[group], stored.values(group).unwrap(), seed + group as u64)
    };
    if entropy {
        for (number, site) in plain.sites().iter().enumerate() {
            for (g, _) in site.layout().groups.iter().enumerate().filter(|(_, group)| group.bits != 0) {
                plan.entropy_code(number, g, &codes(number, g)).unwrap();
            }
        }
    }
    let bytes = write(&plan, codes);
    (plan, bytes)
}

fn any_sites() -> impl Strategy<Value = Vec<SiteLayout>> {
    (any_site(0), any_site(1), any_site(2), 0_usize..4).prop_map(|(a, b, c, count)| {
        let mut sites = vec![a, b, c];
        sites.truncate(count);
        sites
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn packing_and_unpacking_is_the_identity(
        sites in any_sites(),
        images in 0_u32..40,
        seed in 0_u64..1 << 40,
        entropy in any::<bool>(),
    ) {
        let (plan, bytes) = container(sites, images, seed, entropy);
        prop_assert_eq!(bytes.len() as u64, plan.sizes().total());
        let mut reader = Reader::from_bytes(&bytes).unwrap();
        prop_assert_eq!(reader.verify().unwrap(), plan.sizes());
        let mut payload = 0;
        let mut header = 40;
        for (number, site) in plan.sites().iter().enumerate() {
            prop_assert_eq!(reader.site(number).unwrap(), site);
            header += 30;
            for (g, layout) in site.layout().groups.iter().enumerate() {
                let values = site.values(g).unwrap();
                let codes = if layout.bits == 0 { vec![] } else { noise(layout, values, seed + g as u64) };
                prop_assert_eq!(reader.codes(number, g).unwrap(), codes);
                payload += packed_bytes(values, layout.bits);
                header += if layout.bits == 0 { 13 } else { 17 };
            }
        }
        prop_assert_eq!(plan.sizes().header_bytes, header);
        if entropy {
            prop_assert!(plan.sizes().payload_bytes <= payload);
        } else {
            prop_assert_eq!(plan.sizes().payload_bytes, payload);
        }
    }
}
