//! Wrong recipes, each with the findings that it must give: code, line and column, and words of message or help; and, as
//! snapshots, the whole of what a user sees of each.

use super::extends_tests::Files;
use super::tests::VALID;
use super::*;

/// A change of a recipe (`from` to `to`), and the one finding it leads to.
struct Case {
    from: &'static str,
    to: &'static str,
    code: &'static str,
    at: (usize, usize),
    says: &'static [&'static str],
}

const fn case(
    from: &'static str,
    to: &'static str,
    code: &'static str,
    at: (usize, usize),
    says: &'static [&'static str],
) -> Case {
    Case { from, to, code, at, says }
}

/// Changes of the recipe with every key.
const CASES: &[Case] = &[
    // Keys.
    case(
        "    length: 6ep",
        "    lenght: 6ep",
        "unknown-key",
        (36, 5),
        &["in stage `search`", "did you mean `length`?", "Known keys: `stage`, `length`, `target_bits`"],
    ),
    case(
        "    momentum: 0.9",
        "    target_bits: 2",
        "unknown-key",
        (25, 5),
        &["in stage `train`", "belongs in stage `calibrate` or stage `search`", "`warmup`"],
    ),
    case("seed: 7", "batch_size: 7", "unknown-key", (3, 1), &["in the recipe", "belongs in `data`"]),
    case(
        "    label_smoothing: 0.0",
        "    seed: 1",
        "unknown-key",
        (27, 5),
        &["belongs in the top level of the recipe"],
    ),
    case("  crop_padding: 2", "  zzz: 2", "unknown-key", (13, 3), &["in `data`", "known keys: `kind`"]),
    case("  exclude: []", "  exlude: []", "unknown-key", (19, 3), &["in `sites`", "did you mean `exclude`?"]),
    case(
        "    target_bits: 2.16\n",
        "",
        "missing-key",
        (35, 5),
        &["`target_bits` in stage `search`", "`target_bits: 2.16`"],
    ),
    case("  input: 3x32x32\n", "", "missing-key", (5, 1), &["`input` in `model`", "`input: 3x32x32`"]),
    case("version: 1\n", "", "missing-key", (1, 1), &["`version` in the recipe", "`version: 1`"]),
    case("  kind: idx\n", "", "missing-key", (8, 1), &["`kind` in `data`", "`idx`"]),
    case("stage: finetune", "stages: finetune", "missing-key", (44, 5), &["`stage` in item 4 of `stages`"]),
    case("seed: 7", "version: 1", "duplicate-key", (3, 1), &["`version`", "line 1"]),
    // Types.
    case(
        "length: 8ep",
        "length: 8",
        "wrong-type",
        (22, 13),
        &["must be a length, found the number `8`", "`length: 8ep`"],
    ),
    case(
        "batch_size: 64",
        "batch_size: '64'",
        "wrong-type",
        (11, 15),
        &["must be a whole number, found the text `64`"],
    ),
    case("images: 2048", "images: 20.5", "wrong-type", (29, 13), &["must be a whole number, found the number `20.5`"]),
    case(
        "horizontal_flip: true",
        "horizontal_flip: yes",
        "wrong-type",
        (14, 20),
        &["must be `true` or `false`, found the text `yes`"],
    ),
    case(
        "distillation: 0.5",
        "distillation: half",
        "wrong-type",
        (43, 19),
        &["must be a number", "`distillation: 0.5`"],
    ),
    case("include: [\"*\"]", "include: \"*\"", "wrong-type", (18, 12), &["must be a list, found the text `*`"]),
    case(
        "include: [\"*\"]",
        "include: [5]",
        "wrong-type",
        (18, 13),
        &["item 1 of `include` in `sites`", "write `\"5\"`"],
    ),
    case("path: ../../models/resnet18-32px.pt", "path:", "wrong-type", (6, 3), &["found nothing"]),
    case("name: fashion-mnist-mini/resnet18-joint", "name: 5", "wrong-type", (2, 7), &["in quotes"]),
    case(
        "anneal: cosine",
        "anneal: [cosine]",
        "wrong-type",
        (39, 5),
        &["found a list", "`linear`, `cosine`, `exponential`"],
    ),
    // Words.
    case("anneal: cosine", "anneal: cosin", "unknown-value", (39, 13), &["did you mean `cosine`?", "`linear`"]),
    case(
        "kind: idx",
        "kind: imagenet",
        "unknown-value",
        (9, 9),
        &["known values: `idx`, `folder`, `shards`, `synthetic`"],
    ),
    case("stage: finetune", "stage: finetun", "unknown-value", (44, 12), &["did you mean `finetune`?", "`calibrate`"]),
    case("batch_norm: train", "batch_norm: freeze", "unknown-value", (42, 17), &["known values: `train`, `frozen`"]),
    // Ranges.
    case("version: 1", "version: 2", "out-of-range", (1, 10), &["only 1", "version 1 of the recipe language"]),
    case(
        "target_bits: 2.16",
        "target_bits: 0",
        "out-of-range",
        (37, 18),
        &["more than 0 and at most 8", "ORIGINAL activation tensors", "1 to 8 bits"],
    ),
    case(
        "target_bits: 2.16",
        "target_bits: 40",
        "out-of-range",
        (37, 18),
        &["more than 0 and at most 8", "ORIGINAL activation tensors", "dropped value has 0"],
    ),
    case("max_groups: 8", "max_groups: 33", "out-of-range", (34, 17), &["at least 1 and at most 32"]),
    case("momentum: 0.9", "momentum: 1", "out-of-range", (25, 15), &["less than 1"]),
    case("max_mac_overhead: 30", "max_mac_overhead: -1", "out-of-range", (33, 23), &["at least 0"]),
    case("seed: 7", "seed: -7", "out-of-range", (3, 7), &["at least 0"]),
    case("seed: 7", "seed: 18446744073709551616", "out-of-range", (3, 7), &["at most 18446744073709551615"]),
    case("length: 3ep", "length: 0st", "out-of-range", (45, 13), &["more than 0"]),
    case("mean: 0.2860", "mean: .nan", "not-finite", (15, 9), &["`mean` in `data`"]),
    case("std: 0.3530", "std: -.inf", "not-finite", (16, 8), &["finite"]),
    case("path: ../../data/fashion-mnist-mini", "path: ''", "empty-value", (10, 9), &["`path` in `data` is empty"]),
    // Texts.
    case("name: fashion-mnist-mini/resnet18-joint", "name: \"a\\nb\"", "bad-text", (2, 7), &["one line"]),
    case("length: 6ep", "length: 6 epochs", "bad-length", (36, 13), &["found `6 epochs`", "`8ep`", "`1200st`"]),
    case("input: 3x32x32", "input: 3x32", "bad-shape", (7, 10), &["`3x32x32`"]),
    case("device: auto", "device: gpu", "bad-device", (4, 9), &["`cuda:1`"]),
    // Order and relations.
    case("start_bits: 8", "start_bits: 2", "bits-order", (38, 17), &["(2) is below `target_bits` (2.16)"]),
    case("warmup: 1ep", "warmup: 8ep", "warmup-too-long", (24, 13), &["(8ep) must be shorter than the stage (8ep)"]),
    case("stage: finetune", "stage: train", "stage-order", (44, 12), &["`train` after `search`"]),
    // What YAML can do and a recipe doesn't want.
    case("seed: 7", "seed: !!int 7", "unsupported-yaml", (3, 7), &["no tags"]),
    case("weight_decay: 0.0005", "weight_decay: 0.0005\n---\nx: 1", "unsupported-yaml", (27, 1), &["second document"]),
    case(
        "momentum: 0.9\n    weight_decay: 0.0005",
        "momentum: &m 0.9\n    weight_decay: *m",
        "unsupported-yaml",
        (26, 19),
        &["no aliases"],
    ),
    // Without a base.
    case("sites:", "extend: base.yaml\nsites:", "unknown-key", (17, 1), &["did you mean `extends`?"]),
    case(
        "  input: 3x32x32",
        "  input: 3x32x32\n  extends: b.yaml",
        "unknown-key",
        (8, 3),
        &["belongs in the top level"],
    ),
    // Shares of a stage, and patterns of sites.
    case("warmup: 1ep", "warmup: 120%", "bad-length", (24, 13), &["a length or a percentage, found `120%`", "`5%`"]),
    case("warmup: 1ep", "warmup: 5 %", "bad-length", (24, 13), &["without a space"]),
    case("warmup: 1ep", "warmup: 100%", "warmup-too-long", (24, 13), &["(100%) must be shorter than the stage (8ep)"]),
    case("warmup: 1ep", "warmup: 0.1", "wrong-type", (24, 13), &["a length or a percentage, found the number `0.1`"]),
    case("length: 8ep", "length: 50%", "bad-length", (22, 13), &["must be a length, found `50%`"]),
    case("include: [\"*\"]", "include: [/layer(/]", "bad-pattern", (18, 13), &["unclosed group", "`layer4.*`"]),
    case("include: [\"*\"]", "include: ['']", "bad-pattern", (18, 13), &["it is empty"]),
    case("exclude: []", "exclude: [/layer4]", "bad-pattern", (19, 13), &["between two slashes"]),
    // More of each kind.
    case("momentum: 0.9", "momentum: -0.1", "out-of-range", (25, 15), &["at least 0 and less than 1"]),
    case("eval_batch_size: 250", "eval_batch_size: 0", "out-of-range", (12, 20), &["at least 1 and at most 65536"]),
    case("transform: auto", "transform: fourier", "unknown-value", (31, 16), &["`auto`, `pca`, `block`, `none`"]),
    case("placement: before", "placement: befor", "unknown-value", (32, 16), &["did you mean `before`?"]),
    case("target_bits: 2.16", "target_bits: two", "wrong-type", (37, 18), &["must be a number, found the text `two`"]),
    case("length: 3ep", "length: 1.5st", "bad-length", (45, 13), &["found `1.5st`"]),
    case("version: 1", "version: one", "wrong-type", (1, 10), &["must be a whole number"]),
    case("label_smoothing: 0.0", "label_smoothing: 1", "out-of-range", (27, 22), &["less than 1"]),
    case(
        "crop_padding: 2",
        "crop_padding: 2px",
        "wrong-type",
        (13, 17),
        &["must be a whole number, found the text `2px`"],
    ),
    case("    length: 3ep", "\tlength: 3ep", "syntax", (44, 12), &["found a tab", "by spaces (no tabs)"]),
    case("length: 8ep", "length: \"8ep", "syntax", (22, 13), &["not valid YAML"]),
    case("seed: 7", "seed: 7: 8", "syntax", (3, 8), &["not valid YAML"]),
];

/// Between two outputs of a snapshot.
const RULE: &str = "----------------------------------------";

fn position(finding: &Finding) -> (usize, usize) {
    (finding.line.unwrap_or(0), finding.column.unwrap_or(0))
}

/// A recipe of photographs, and the keys that its `data` may have.
const PHOTOGRAPHS: &str = "version: 1
model: {path: m.pt, input: 3x224x224}
data:
  kind: folder
  path: /data/imagenet
  resize: 256
  interpolation: bilinear
  scale: [0.08, 1]
  ratio: [0.75, 1.3333]
  mean: [0.485, 0.456, 0.406]
  std: [0.229, 0.224, 0.225]
  max_unreadable: 3
  threads: 4
stages: [{stage: train, length: 1ep}]
";

/// Changes of that recipe.
const PHOTOGRAPH_CASES: &[Case] = &[
    case("  path: /data/imagenet\n", "", "missing-key", (3, 1), &["`path` in `data`", "/data/imagenet"]),
    case("  kind: folder", "  kind: folders", "unknown-value", (4, 9), &["did you mean `folder`?"]),
    case("  kind: folder", "  kind: idx", "unknown-key", (6, 3), &["`resize` belongs in `data` of the kind `folder`"]),
    case(
        "  kind: folder\n  path: /data/imagenet",
        "  kind: shards\n  train: a.tar",
        "missing-key",
        (3, 1),
        &["`val` in `data`", "imagenet-val-{000000..000006}.tar"],
    ),
    case(
        "  resize: 256",
        "  crop_padding: 4",
        "unknown-key",
        (6, 3),
        &["`crop_padding` belongs in `data` of the kind `idx`"],
    ),
    case("  resize: 256", "  shuffle_buffer: 9", "unknown-key", (6, 3), &["belongs in `data` of the kind `shards`"]),
    case("resize: 256", "resize: 223", "too-small", (6, 11), &["(223) is below the network's input, 3x224x224"]),
    case("bilinear", "lanczos", "unknown-value", (7, 18), &["known values: `bilinear`, `bicubic`"]),
    case("scale: [0.08, 1]", "scale: [0.08]", "wrong-length", (8, 3), &["must have 2 items, found 1", "[0.08,1.0]"]),
    case("scale: [0.08, 1]", "scale: 0.08", "wrong-type", (8, 10), &["must be a list"]),
    case("scale: [0.08, 1]", "scale: []", "empty-value", (8, 3), &["`scale` in `data` is empty"]),
    case("scale: [0.08, 1]", "scale: [0.08, 1.1]", "out-of-range", (8, 17), &["at least 0.0001 and at most 1"]),
    case("scale: [0.08, 1]", "scale: [1, 0.08]", "range-order", (8, 3), &["(1) is above the greatest (0.08)"]),
    case("ratio: [0.75, 1.3333]", "ratio: [2, 1]", "range-order", (9, 3), &["the least `ratio`"]),
    case("ratio: [0.75, 1.3333]", "ratio: [0, 1]", "out-of-range", (9, 11), &["at least 0.01"]),
    case("0.456, 0.406", "0.456", "wrong-length", (10, 3), &["must have 3 items, found 2"]),
    case("0.229, 0.224", "0.229, 0", "out-of-range", (11, 16), &["at least 0.0001"]),
    case("max_unreadable: 3", "max_unreadable: -1", "out-of-range", (12, 19), &["at least 0"]),
    case("threads: 4", "threads: 0", "out-of-range", (13, 12), &["at least 1"]),
    case("3x224x224", "1x224x224", "wrong-channels", (4, 9), &["photographs have 3 channels"]),
];

#[test]
fn every_wrong_recipe_of_photographs_gives_its_finding_at_its_place() {
    Recipe::parse(PHOTOGRAPHS, "x.yaml", &[]).unwrap();
    let mut wrong = Vec::new();
    for case in PHOTOGRAPH_CASES {
        assert!(PHOTOGRAPHS.contains(case.from), "{}", case.from);
        let text = PHOTOGRAPHS.replacen(case.from, case.to, 1);
        let error = Recipe::parse(&text, "x.yaml", &[]).unwrap_err();
        let right = error.findings.iter().any(|finding| {
            (finding.code, position(finding)) == (case.code, case.at)
                && case.says.iter().all(|words| finding.to_string().contains(words))
        });
        if !right {
            wrong.push(format!("{:?} -> {:?}:\n{error}", case.from, case.to));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_wrong_recipe_gives_its_finding_at_its_place() {
    let mut wrong = Vec::new();
    let mut shown = String::new();
    for case in CASES {
        assert!(VALID.contains(case.from), "{}", case.from);
        let text = VALID.replacen(case.from, case.to, 1);
        let error = Recipe::parse(&text, "x.yaml", &[]).unwrap_err();
        let all = error.to_string();
        let right = error.findings.iter().any(|finding| {
            (finding.code, position(finding)) == (case.code, case.at)
                && case.says.iter().all(|words| finding.to_string().contains(words))
        });
        if !right || error.findings.len() != 1 {
            wrong.push(format!("{:?} -> {:?}:\n{all}", case.from, case.to));
        }
        shown += &format!("{}\n->\n{}\n\n{all}\n\n{RULE}\n\n", case.from, case.to);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    insta::assert_snapshot!("wrong_recipes", shown);
}

/// What stands before each of [`VARIABLES`]: three lines.
const HEAD: &str = "version: 1\nmodel: {path: m.pt, input: 1x28x28}\ndata: {kind: idx, path: d}\n";
/// Stages of a right form.
const STAGES: &str = "\nstages: [{stage: train, length: 1ep}]\n";

/// The rest of a recipe, and the one finding that it leads to.
type Variables = (&'static str, &'static str, (usize, usize), &'static [&'static str]);

const VARIABLES: &[Variables] = &[
    (
        "vars: {bits: 2, epochs: 3}\nstages:\n  - stage: calibrate\n  - stage: search\n    length: 1ep\n    target_bits: ${bist}",
        "unknown-variable",
        (9, 18),
        &["there is no variable `bist`", "did you mean `bits`?", "`bits`, `epochs`"],
    ),
    ("stages:\n  - stage: train\n    length: ${n}ep", "unknown-variable", (6, 13), &["has no variables", "at its top"]),
    ("name: \"${}\"\nvars: {a: 1}", "unknown-variable", (4, 7), &["no variable ``", "variables: `a`"]),
    ("vars: 5", "wrong-type", (4, 7), &["`vars` must be a mapping", "found the number `5`"]),
    ("vars: [a]", "wrong-type", (4, 1), &["found a list"]),
    ("vars:", "wrong-type", (4, 1), &["found nothing"]),
    ("vars: {a: [1]}", "wrong-type", (4, 8), &["`a` must be a single value, found a list"]),
    ("vars: {a: }", "wrong-type", (4, 8), &["found nothing"]),
    ("vars: {1a: 2}", "bad-variable", (4, 8), &["`1a` is no name", "begins with a letter"]),
    ("vars: {a: \"${b}\", b: 1}", "bad-variable", (4, 11), &["`a` refers to another one"]),
    ("vars: {a: 1, a: 2}", "duplicate-key", (4, 14), &["`a`"]),
    ("name: x${a\nvars: {a: 1}", "bad-variable", (4, 7), &["`${` without its `}`", "`$${`"]),
    (
        "seed: ${s}\nvars: {s: soon}",
        "wrong-type",
        (4, 7),
        &["found the text `soon`", "`${s}` is `soon`, from x.yaml:5:11"],
    ),
    ("seed: ${s}\nvars: {s: -1}", "out-of-range", (4, 7), &["at least 0", "`${s}` is `-1`, from x.yaml:5:11"]),
    ("device: cuda:${n}\nvars: {n: x}", "bad-device", (4, 9), &["found `cuda:x`", "from x.yaml:5:11"]),
    ("name: {a: ${b}}", "syntax", (4, 12), &["around `${name}` within"]),
    ("sites: {include: [\"${site}\"]}\nvars: {site: /a(/}", "bad-pattern", (4, 19), &["unclosed group"]),
];

#[test]
fn every_wrong_variable_gives_its_finding_at_its_place() {
    let mut wrong = Vec::new();
    let mut shown = String::new();
    for &(rest, code, at, says) in VARIABLES {
        let text = format!("{HEAD}{rest}{}", if rest.contains("stages:") { "\n" } else { STAGES });
        let error = Recipe::parse(&text, "x.yaml", &[]).unwrap_err();
        let right = error.findings.iter().any(|finding| {
            (finding.code, position(finding)) == (code, at)
                && says.iter().all(|words| finding.to_string().contains(words))
        });
        if !right || error.findings.len() != 1 {
            wrong.push(format!("{rest:?}:\n{error}"));
        }
        shown += &format!("{rest}\n\n{error}\n\n{RULE}\n\n");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    insta::assert_snapshot!("wrong_variables", shown);
}

/// A text of `x.yaml` beside [`BESIDE`], and the one finding that it leads to: code, file (`x.yaml` or a base), place, words.
type Extending = (&'static str, &'static str, &'static str, (usize, usize), &'static [&'static str]);

const EXTENDING: &[Extending] = &[
    // The base.
    ("extends: bsae.yaml", "no-base", "x.yaml", (1, 10), &["there is no file", "did you mean `base.yaml`?"]),
    ("seed: 1\nextends: ../sub/zz.yaml", "no-base", "x.yaml", (2, 10), &["no folder", "../sub`"]),
    ("extends: sub/zz.yaml", "no-base", "x.yaml", (1, 10), &["`sub/list.yaml`", "the folder of the file that says it"]),
    ("extends: missing.yaml", "no-base", "missing.yaml", (2, 10), &["sub/nothing.yaml"]),
    ("extends: sub", "unreadable", "x.yaml", (1, 10), &["it is no file"]),
    ("extends:", "wrong-type", "x.yaml", (1, 1), &["`extends` must be text", "found nothing", "`extends: base.yaml`"]),
    ("extends: [base.yaml]", "wrong-type", "x.yaml", (1, 1), &["found a list"]),
    ("extends: 5", "wrong-type", "x.yaml", (1, 10), &["found the number `5`"]),
    ("extends: ''", "empty-value", "x.yaml", (1, 10), &["`extends` is empty"]),
    ("extends: \"a\\0\"", "bad-text", "x.yaml", (1, 10), &["without control characters"]),
    ("extends: !!str base.yaml", "unsupported-yaml", "x.yaml", (1, 10), &["no tags"]),
    ("extends: base.yaml\nextends: circle.yaml", "duplicate-key", "x.yaml", (2, 1), &["line 1"]),
    ("extends: circle.yaml", "circle", "circle.yaml", (1, 10), &["circle.yaml -> ", "in a circle"]),
    // What is in the base.
    ("extends: sub/syntax.yaml", "syntax", "syntax.yaml", (2, 8), &["not valid YAML"]),
    ("extends: sub/twice.yaml", "duplicate-key", "twice.yaml", (2, 1), &["`version`", "line 1"]),
    ("extends: sub/empty.yaml", "empty", "empty.yaml", (1, 1), &["the recipe is empty"]),
    ("extends: sub/list.yaml", "wrong-type", "list.yaml", (1, 1), &["must be a mapping", "found a list"]),
    (
        "extends: sub/patch.yaml\nstages: {search: {target_bits: 2}}",
        "bad-patch",
        "patch.yaml",
        (4, 1),
        &["extends none"],
    ),
    // What is laid over it.
    ("extends: base.yaml\nlabel:", "bad-patch", "x.yaml", (2, 1), &["no `label` to take away"]),
    ("extends: base.yaml\nsites: {exlude: ~}", "bad-patch", "x.yaml", (2, 9), &["did you mean `exclude`?"]),
    ("extends: base.yaml\nmodel:", "missing-key", "x.yaml", (1, 1), &["`model` in the recipe"]),
    ("extends: base.yaml\nmodel: {path: }", "missing-key", "x.yaml", (2, 1), &["`path` in `model`"]),
    ("extends: base.yaml\ndata: 5", "wrong-type", "x.yaml", (2, 7), &["found the number `5`"]),
    ("extends: base.yaml\nsedd: 5", "unknown-key", "x.yaml", (2, 1), &["did you mean `seed`?"]),
    // Stages.
    (
        "extends: base.yaml\nstages:\n  serch: {target_bits: 2}",
        "bad-patch",
        "x.yaml",
        (3, 3),
        &["the base has no stage `serch`", "did you mean `search`?", "`train`, `calibrate`", "write the whole list"],
    ),
    ("extends: base.yaml\nstages: {prune: ~}", "bad-patch", "x.yaml", (2, 10), &["the base has no stage `prune`"]),
    ("extends: base.yaml\nstages: {4: ~}", "bad-patch", "x.yaml", (2, 10), &["there is no item 4: the list has 4"]),
    (
        "extends: trains.yaml\nstages: {train: {length: 2ep}}",
        "bad-patch",
        "x.yaml",
        (2, 10),
        &["2 stages `train`", "[0, 1]"],
    ),
    ("extends: base.yaml\nstages: {calibrate: }", "stage-order", "base.yaml", (35, 12), &["needs a `calibrate`"]),
    (
        "extends: base.yaml\nstages: {search: {length: }}",
        "missing-key",
        "x.yaml",
        (2, 10),
        &["`length` in stage `search`"],
    ),
    ("extends: base.yaml\nstages: {search: 5}", "wrong-type", "x.yaml", (2, 18), &["item 3 of `stages`"]),
    ("extends: base.yaml\nstages: {search: {start_bits: 2}}", "bits-order", "x.yaml", (2, 31), &["(2) is below"]),
    ("extends: trains.yaml\nstages: {0: , 1: }", "empty-value", "x.yaml", (2, 1), &["`stages` is empty"]),
    ("extends: bare.yaml\nstages: {search: {length: 1ep}}", "bad-patch", "x.yaml", (2, 1), &["no `stages` to change"]),
];

/// Files beside those texts.
const BESIDE: &[(&str, &str)] = &[
    ("base.yaml", VALID),
    ("trains.yaml", "extends: base.yaml\nstages: [{stage: train, length: 1ep}, {stage: train, length: 1ep}]"),
    ("bare.yaml", "extends: base.yaml\nstages:"),
    ("circle.yaml", "extends: circle.yaml"),
    ("missing.yaml", "seed: 1\nextends: sub/nothing.yaml"),
    ("sub/syntax.yaml", "version: 1\nseed: 7: 8"),
    ("sub/twice.yaml", "version: 1\nversion: 1\nextends: ../base.yaml"),
    ("sub/empty.yaml", "# nothing"),
    ("sub/list.yaml", "- a"),
    (
        "sub/patch.yaml",
        "version: 1\nmodel: {path: m.pt, input: 1x2x2}\ndata: {kind: idx, path: d}\nstages: {search: {length: 1ep}}",
    ),
];

#[test]
fn every_wrong_recipe_with_a_base_gives_its_finding_in_its_file() {
    let files = Files::new(BESIDE);
    let folder = files.at("");
    let real = std::fs::canonicalize(&folder).unwrap();
    let mut wrong = Vec::new();
    let mut shown = String::new();
    for &(text, code, file, at, says) in EXTENDING {
        let error = files.parse(text, &[]).unwrap_err();
        let right = error.findings.iter().any(|finding| {
            (finding.code, position(finding)) == (code, at)
                && Path::new(&finding.file).ends_with(file)
                && says.iter().all(|words| finding.to_string().contains(words))
        });
        if !right || error.findings.len() != 1 {
            wrong.push(format!("{text:?}:\n{error}"));
        }
        let error = error.to_string().replace(folder.to_str().unwrap(), "");
        let error = error.replace(&format!("{}/", real.display()), "");
        shown += &format!("{text}\n\n{error}\n\n{RULE}\n\n");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    insta::assert_snapshot!("wrong_bases", shown);
}

#[test]
fn all_findings_come_at_once_and_in_order() {
    let text = "version: 3\nseed: [1]\nmodel: {path: m.pt, input: 3x}\ndata: {kind: idx}\nstages:\n  - stage: finetune\n    lenght: 3x\n  - stage: serch\n    target_bits: 40\nsed: 1\n";
    let error = Recipe::parse(text, "x.yaml", &[]).unwrap_err();
    let found: Vec<_> = error.findings.iter().map(|f| (f.code, position(f))).collect();
    assert_eq!(
        found,
        [
            ("out-of-range", (1, 10)),
            ("wrong-type", (2, 1)),
            ("bad-shape", (3, 28)),
            ("missing-key", (4, 1)),
            ("unknown-key", (7, 5)),
            // The misspelt key's value, and what a misspelt stage holds and lacks.
            ("bad-length", (7, 13)),
            ("missing-key", (8, 5)),
            ("unknown-value", (8, 12)),
            ("out-of-range", (9, 18)),
            ("unknown-key", (10, 1)),
        ],
        "{error}"
    );
}
