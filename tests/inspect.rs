//! `dimbit inspect`: what it says of a network, against numbers worked out by hand or known from the literature.

mod common;

use common::{dimbit, fixture, root};
use serde_json::{Value as Json, json};

fn inspect(model: &std::path::Path, input: &str, convention: &str) -> Json {
    let model = model.to_str().unwrap();
    dimbit(&["inspect", model, "--input", input, "--convention", convention, "--json"]).json()
}

fn small(name: &str, convention: &str) -> Json {
    inspect(&fixture(name), "3x32x32", convention)
}

fn column<'a>(found: &'a Json, key: &str) -> Vec<&'a Json> {
    found["sites"].as_array().unwrap().iter().map(|site| &site[key]).collect()
}

fn rows(found: &Json) -> Vec<(&str, &str)> {
    let text = |key| column(found, key).into_iter().map(|v| v.as_str().unwrap()).collect::<Vec<_>>();
    text("name").into_iter().zip(text("kind")).collect()
}

/// The sites that a half of a channel transform folds at.
fn folding<'a>(found: &'a Json, key: &str) -> Vec<&'a str> {
    let sites = found["sites"].as_array().unwrap().iter();
    sites.filter(|site| site[key].as_bool().unwrap()).map(|site| site["name"].as_str().unwrap()).collect()
}

#[test]
fn tiny_has_the_sites_that_its_source_shows() {
    let found = small("tiny-scripted.pt", "relu");
    // 32x32 halves to 16x16 in the stem, to 8x8 in the pool, and to 4x4 in the block.
    let expected = json!([
        {"name": "relu", "kind": "relu", "shape": [8, 16, 16], "values": 2048, "share": 2048.0 / 2752.0,
         "producer": "bn1", "consumers": ["maxpool.max_pool2d"],
         "folds_forward": true, "folds_inverse": false},
        {"name": "block.relu", "kind": "relu", "shape": [16, 4, 4], "values": 256, "share": 256.0 / 2752.0,
         "producer": "block.bn1", "consumers": ["block.conv2"],
         "folds_forward": true, "folds_inverse": false},
        {"name": "block.relu#2", "kind": "relu", "shape": [16, 4, 4], "values": 256, "share": 256.0 / 2752.0,
         "producer": "block.add", "consumers": ["mixer.conv"],
         "folds_forward": true, "folds_inverse": false},
        {"name": "mixer.relu6", "kind": "relu6", "shape": [12, 4, 4], "values": 192, "share": 192.0 / 2752.0,
         "producer": "mixer.bn", "consumers": ["dropout.dropout"],
         "folds_forward": true, "folds_inverse": false},
    ]);
    assert_eq!(found["sites"], expected);
    assert_eq!(found["total_values"], 2752);
    assert_eq!(found["classes"], 10);
}

#[test]
fn macs_and_parameters_of_tiny_are_those_worked_out_by_hand() {
    for name in ["tiny-scripted.pt", "tiny-traced.pt"] {
        let found = small(name, "relu");
        // Positions × output channels × (kernel × input channels):
        //   conv1             256 ×  8 × (9 ×  3) =  55,296
        //   block.conv1        16 × 16 × (9 ×  8) =  18,432
        //   block.conv2        16 × 16 × (9 × 16) =  36,864
        //   block.downsample   16 × 16 × (1 ×  8) =   2,048
        //   mixer.conv         16 × 12 × (9 × 16) =  27,648
        //   fc                       10 × 12      =     120
        assert_eq!(found["macs"], 55_296 + 18_432 + 36_864 + 2_048 + 27_648 + 120, "{name}");
        // Convolutions have no bias; a normalisation has two values a channel.
        //   conv1 8·27, block.conv1 16·72, block.conv2 16·144, block.downsample 16·8, mixer.conv 12·144, fc 10·12 + 10
        //   normalisations 2 · (8 + 16 + 16 + 16 + 12)
        assert_eq!(found["parameters"], 216 + 1_152 + 2_304 + 128 + 1_728 + 130 + 2 * 68, "{name}");
    }
}

#[test]
fn the_stored_convention_counts_what_a_fused_kernel_reads() {
    // The stem is stored after its pool (8x8x8). Of the block's addition, the convolution that runs last (the
    // downsample) stays on chip, and the other operand waits in memory, where no site covers it.
    let expected = [
        ("maxpool.max_pool2d", "relu", 512),
        ("block.relu", "relu", 256),
        ("block.bn2", "uncovered", 256),
        ("block.relu#2", "relu", 256),
        ("mixer.relu6", "relu6", 192),
    ];
    for name in ["tiny-scripted.pt", "tiny-traced.pt"] {
        let found = small(name, "stored");
        assert_eq!(rows(&found), expected.map(|(name, kind, _)| (name, kind)), "{name}");
        assert_eq!(column(&found, "values"), expected.map(|(_, _, values)| values), "{name}");
        assert_eq!(found["total_values"], 1_472, "{name}");
    }
}

#[test]
fn every_spelling_is_a_site_and_gates_are_none() {
    let expected = [
        ("relu", "relu"),
        ("relu_inplace", "relu"),
        ("relu#2", "relu"), // F.relu
        ("relu#3", "relu"), // torch.relu
        ("relu#4", "relu"), // torch.relu_
        ("relu#5", "relu"), // x.relu()
        ("relu6", "hardtanh"),
        ("hardtanh", "hardtanh"),
        ("hardswish", "hardswish"),
        ("hardswish_inplace", "hardswish"),
        ("silu", "silu"),
        ("gelu", "gelu"),
        ("leaky_relu", "leaky_relu"),
        ("elu", "elu"),
        ("mish", "mish"),
        ("softplus", "softplus"),
        ("prelu", "prelu"),
        ("clamp", "clamp"),
        ("clamp_min", "clamp_min"),
        ("relu#6", "relu"), // behind `if self.extra`
        ("shared", "relu"),
        ("shared#2", "relu"),
        ("shared#3", "relu"),
        ("loop.0", "relu"),
        ("loop.1", "relu"),
        ("sigmoid", "sigmoid"), // the gate is not among them
        ("hidden_relu", "relu"),
    ];
    for name in ["spellings-scripted.pt", "spellings-traced.pt"] {
        let found = small(name, "relu");
        assert_eq!(rows(&found), expected, "{name}");
        let mut shapes = vec![json!([6, 8, 8]); expected.len() - 1];
        shapes.push(json!([12]));
        assert_eq!(column(&found, "shape"), shapes.iter().collect::<Vec<_>>(), "{name}");
        assert_eq!(found["total_values"], 26 * 384 + 12, "{name}");
        let shares: f64 = column(&found, "share").iter().map(|share| share.as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-12, "{name}: {shares}");
    }
}

#[test]
fn a_tensor_changed_in_place_is_stored_once() {
    // Beside the 27 sites: two sums (384 values each) that a convolution reads, the gate (6), the clamp that is no ReLU
    // (384), and of the last sum's operands the one that is not fused (384). `torch.relu_(y) + y` reads one tensor.
    let found = small("spellings-scripted.pt", "stored");
    assert_eq!(found["total_values"], 26 * 384 + 12 + 2 * 384 + 6 + 384 + 384);
}

#[test]
fn a_trace_says_what_the_script_says() {
    for network in ["tiny", "spellings"] {
        for convention in ["relu", "stored"] {
            let [scripted, traced] =
                ["scripted", "traced"].map(|how| small(&format!("{network}-{how}.pt"), convention));
            assert_eq!(scripted, traced, "{network}, {convention}");
        }
    }
}

#[test]
fn a_transform_folds_where_a_neighbour_absorbs_it_exactly() {
    for name in ["folds-scripted.pt", "folds-traced.pt"] {
        let found = small(name, "relu");
        let forward = [
            "unpadded", // conv, bn
            "kernel3",
            "padded", // conv, dropout
            "valid",
            "same",
            "depthwise", // its reader is; its producer is dense
            "grouped",
            "transposed",
            // not made_by_depthwise, made_by_transposed, batch_statistics, identity (conv + skip)
            "projected", // bn(conv) + conv
            // not tapped, conv_tapped (read twice), chosen (an If's output)
            "computed_weight",
            // not made_by_computed_weight
            "pooled",
            "tokens", // [batch, positions, channels]: a linear layer mixes the channels
            // not tokens_dropped: behind the dropout, the codec takes the positions for the channels
            "tokens_pooled",
            "features",
            "features_normed",
            "matrix",
            "logits",
        ];
        assert_eq!(folding(&found, "folds_forward"), forward, "{name}");
        let inverse = [
            "unpadded",
            "kernel3", // 3x3 without padding
            // not padded: by 0 and 1
            "valid",
            // not same, depthwise
            "made_by_depthwise",
            // not grouped, transposed
            "made_by_transposed",
            // not batch_statistics: conv and skip
            "identity", // two convolutions
            "projected",
            // not tapped: an addition
            "conv_tapped",
            "chosen",
            // not computed_weight
            "made_by_computed_weight",
            // not pooled
            "tokens",
            // not tokens_dropped; not tokens_pooled: a mean
            "features", // dropout, linear
            "features_normed",
            "matrix", // addmm
                      // not logits: the output
        ];
        assert_eq!(folding(&found, "folds_inverse"), inverse, "{name}");
    }
}

#[test]
fn the_spellings_of_a_layer_fold_alike() {
    for name in ["spellings-scripted.pt", "spellings-traced.pt"] {
        let found = small(name, "relu");
        // Every activation function stands behind a convolution or a linear layer of its own, whose value nothing else
        // reads: after `torch.relu_(y)`, the name `y` means the result.
        let all: Vec<_> = rows(&found).into_iter().map(|(site, _)| site).collect();
        assert_eq!(folding(&found, "folds_forward"), all, "{name}");
        // All readers are 1x1 convolutions, or `fc`, but for `torch.relu_(y) + y` and the gate with what it scales.
        let not: Vec<_> = all.iter().filter(|site| !folding(&found, "folds_inverse").contains(site)).collect();
        assert_eq!(not, [&"relu#4", &"loop.1"], "{name}");
    }
}

#[test]
fn the_stored_convention_says_nothing_of_folds() {
    let found = small("tiny-scripted.pt", "stored");
    assert!(column(&found, "folds_forward").iter().all(|folds| folds.is_null()));
}

#[test]
fn the_table_shows_sites_and_totals() {
    let model = fixture("tiny-scripted.pt");
    let text = dimbit(&["inspect", model.to_str().unwrap(), "--input", "3x32x32"]).fine();
    for word in ["block.relu#2", "8x16x16", "74.4 %", "4 sites", "2,752", "140,408", "5,794"] {
        assert!(text.contains(word), "`{word}` is missing in\n{text}");
    }
}

#[test]
fn another_input_shape_changes_shapes_but_no_parameters() {
    let found = inspect(&fixture("tiny-scripted.pt"), "3x64x48", "relu");
    assert_eq!(found["sites"][0]["shape"], json!([8, 32, 24]));
    assert_eq!(found["parameters"], 5_794);
}

/// A network of torchvision at its own input size.
fn torchvision(name: &str, convention: &str) -> Json {
    let path = root().join("target/test-models").join(name);
    assert!(
        path.is_file(),
        "{} is missing: run scripts/test, which exports it before it runs the tests",
        path.display()
    );
    inspect(&path, "3x224x224", convention)
}

#[test]
fn resnet18_has_17_sites_and_its_known_numbers() {
    let [scripted, traced] = ["script", "trace"].map(|how| torchvision(&format!("resnet18.{how}.pt"), "relu"));
    assert_eq!(scripted["sites"].as_array().unwrap().len(), 17);
    assert_eq!(scripted["total_values"], 2_308_096);
    assert_eq!(scripted["macs"], 1_814_073_344_u64);
    assert_eq!(scripted["parameters"], 11_689_512);
    assert_eq!(scripted["classes"], 1000);
    assert_eq!(rows(&scripted)[..3], [("relu", "relu"), ("layer1.0.relu", "relu"), ("layer1.0.relu#2", "relu")]);
    // The stem, every block's first, and those whose skip is a convolution as well.
    let forward = [
        "relu",
        "layer1.0.relu",
        "layer1.1.relu",
        "layer2.0.relu",
        "layer2.0.relu#2",
        "layer2.1.relu",
        "layer3.0.relu",
        "layer3.0.relu#2",
        "layer3.1.relu",
        "layer4.0.relu",
        "layer4.0.relu#2",
        "layer4.1.relu",
    ];
    assert_eq!(folding(&scripted, "folds_forward"), forward);
    // Read by the max-pool (stem), by padded convolutions (a block's first, and the first of the next block), by
    // additions, or by the average pool.
    assert!(folding(&scripted, "folds_inverse").is_empty());
    assert_eq!(scripted, traced);
}

#[test]
fn mobilenet_v2_has_35_sites_and_stores_its_bottlenecks_besides() {
    for (convention, sites, values) in [("relu", 35, 6_105_792), ("stored", 52, 6_678_112)] {
        let [scripted, traced] =
            ["script", "trace"].map(|how| torchvision(&format!("mobilenet_v2.{how}.pt"), convention));
        assert_eq!(scripted["sites"].as_array().unwrap().len(), sites, "{convention}");
        assert_eq!(scripted["total_values"], values, "{convention}");
        assert_eq!(scripted["macs"], 300_774_272);
        assert_eq!(scripted, traced, "{convention}");
        // The 17 linear bottlenecks, 572,320 values.
        let uncovered = scripted["sites"].as_array().unwrap().iter().filter(|s| s["kind"] == "uncovered");
        let bottlenecks: u64 = uncovered.map(|s| s["values"].as_u64().unwrap()).sum();
        assert_eq!(bottlenecks, if convention == "stored" { 572_320 } else { 0 });
    }
}

#[test]
fn mobilenet_v2_folds_forward_where_it_expands_and_inverse_where_it_projects() {
    for how in ["script", "trace"] {
        let found = torchvision(&format!("mobilenet_v2.{how}.pt"), "relu");
        // Block 1 has no expansion: its first layer is the depthwise one.
        let expansions = (2..=17).map(|block| format!("features.{block}.conv.0.2"));
        let [stem, last] = ["features.0.2", "features.18.2"].map(str::to_owned);
        let forward: Vec<_> = std::iter::once(stem).chain(expansions).chain([last]).collect();
        assert_eq!(folding(&found, "folds_forward"), forward, "{how}");
        // The depthwise ones are read by the projection, 1x1 without padding. The stem and the expansions are read by
        // depthwise layers, the last by the average pool.
        let depthwise = (2..=17).map(|block| format!("features.{block}.conv.1.2"));
        let inverse: Vec<_> = std::iter::once("features.1.conv.0.2".to_owned()).chain(depthwise).collect();
        assert_eq!(folding(&found, "folds_inverse"), inverse, "{how}");
    }
}

#[test]
fn concatenations_and_gates_absorb_no_transform() {
    // Every activation function of SqueezeNet has a convolution of its own. Their readers are max-pools, padded
    // convolutions beside 1x1 ones, concatenations, and the average pool.
    let squeezenet = torchvision("squeezenet1_1.script.pt", "relu");
    assert_eq!(folding(&squeezenet, "folds_forward").len(), 26);
    assert!(folding(&squeezenet, "folds_inverse").is_empty());
    // MobileNetV3-Small: the hidden layers of the nine squeeze-and-excitations, the two depthwise layers that no gate
    // follows (blocks 2 and 3), and the classifier's hidden layer, behind its dropout.
    let mobilenet = torchvision("mobilenet_v3_small.script.pt", "relu");
    let mut inverse = vec!["features.1.block.1.activation", "features.2.block.1.2", "features.3.block.1.2"];
    let gates: Vec<_> = (4..=11).map(|block| format!("features.{block}.block.2.activation")).collect();
    inverse.extend(gates.iter().map(String::as_str));
    inverse.push("classifier.1");
    assert_eq!(folding(&mobilenet, "folds_inverse"), inverse);
}

#[test]
fn other_networks_of_torchvision_can_be_inspected() {
    for name in ["mobilenet_v3_small.script.pt", "squeezenet1_1.script.pt"] {
        for convention in ["relu", "stored"] {
            let found = torchvision(name, convention);
            assert!(found["sites"].as_array().unwrap().len() > 5, "{name}");
            assert!(column(&found, "values").iter().all(|values| values.as_u64().unwrap() > 0), "{name}");
        }
    }
    // torchvision's own counts of parameters.
    assert_eq!(torchvision("squeezenet1_1.script.pt", "relu")["parameters"], 1_235_496);
    assert_eq!(torchvision("mobilenet_v3_small.script.pt", "relu")["parameters"], 2_542_856);
}
