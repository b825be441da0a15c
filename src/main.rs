//! The command `ablate`.

/// A run with nothing to do is mostly small allocations, and one that writes large tables mostly large ones, which the allocator of
/// the C library gives back to the system and asks for again page by page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ablate::cli::main()
}
