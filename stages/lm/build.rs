//! Writes the folder of libtorch into the binaries, so that they run without environment variables.

fn main() {
    // Set by torch-sys (`links = "tch"`), which found or was given libtorch.
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
        // Old-style tags: the path then also serves the libraries that libtorch itself loads.
        println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
