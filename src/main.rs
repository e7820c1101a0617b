//! The program `dimbit`: parses the command line, dispatches, prints one error.

use std::process::ExitCode;

/// libtorch's memory, too: the C library's heap falls to pieces under tensors that come and go.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    dimbit::cli::main()
}
