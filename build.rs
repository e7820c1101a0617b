//! Builds the C++ part against the libtorch that `torch-sys` found, and links the program so that it starts in any shell.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=src/libtorch/cpp");
    let lib = PathBuf::from(std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells the libtorch folder"));
    let include = lib.parent().map(|root| root.join("include")).unwrap_or_default();
    let mut build = cc::Build::new();
    if lib.join("libtorch_cuda.so").exists() {
        build.define("DIMBIT_CUDA", None);
    }
    build
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false)
        .opt_level(3)
        .flag("-fno-math-errno")
        .flag("-fno-trapping-math")
        .flag("-ffp-contract=off")
        .flag("-fopenmp")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/libtorch/cpp/absorb.cpp")
        .file("src/libtorch/cpp/assembly.cpp")
        .file("src/libtorch/cpp/bake.cpp")
        .file("src/libtorch/cpp/codec.cpp")
        .file("src/libtorch/cpp/folds.cpp")
        .file("src/libtorch/cpp/listing.cpp")
        .file("src/libtorch/cpp/network.cpp")
        .file("src/libtorch/cpp/layout.cpp")
        .file("src/libtorch/cpp/packed.cpp")
        .file("src/libtorch/cpp/products.cpp")
        .file("src/libtorch/cpp/rows.cpp")
        .file("src/libtorch/cpp/sites.cpp")
        .file("src/libtorch/cpp/quantize.cpp")
        .file("src/libtorch/cpp/quantize_cuda.cpp")
        .file("src/libtorch/cpp/training_folds.cpp")
        .file("src/libtorch/cpp/unshared.cpp")
        .compile("dimbit_cpp");
    link(&lib);
}

/// The rpath makes the program find libtorch without exported variables. CUDA's libraries register themselves when
/// loaded and are named by no symbol, so the linker would drop them as not needed.
fn link(lib: &Path) {
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    for name in ["torch_cuda", "torch_cpu", "torch", "c10"] {
        if lib.join(format!("lib{name}.so")).exists() {
            println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-l{name},--as-needed");
        }
    }
}
