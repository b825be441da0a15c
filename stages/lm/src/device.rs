//! Which device and which kind of number a model runs on.
//!
//! The linker drops `libtorch_cuda.so`, which nothing refers to by name; it is opened at start where it is there, so that
//! one binary serves CPU and CUDA.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tch::{Cuda, Device, Kind};

use crate::error::{ModelError, Result};

/// Returns the device of that name: `cpu`, `cuda`, `cuda:1`, or `auto` (CUDA where there is one, else CPU).
///
/// # Errors
/// `Device` if the name is not one of these, or CUDA is asked for and not to be had; it says why.
pub fn device(name: &str) -> Result<Device> {
    let refuse = |problem: String| ModelError::Device { device: name.to_string(), problem };
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(if open_cuda().is_ok() && Cuda::is_available() { Device::Cuda(0) } else { Device::Cpu }),
        _ => {
            let index = match name.strip_prefix("cuda") {
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix(':').and_then(|digits| digits.parse::<usize>().ok()),
                None => None,
            };
            let index = index.ok_or_else(|| refuse("expected cpu, cuda, cuda:N or auto".into()))?;
            open_cuda().map_err(|problem| refuse(format!("{problem}; use `cpu` or `auto`")))?;
            let count = Cuda::device_count();
            if !Cuda::is_available() || index as i64 >= count {
                return Err(refuse(format!("this machine has {count} usable CUDA devices; use `cpu` or `auto`")));
            }
            Ok(Device::Cuda(index))
        }
    }
}

/// Returns the number kind of that name: `float32` or `bfloat16`.
///
/// # Errors
/// `Invalid` for another name.
pub fn kind(name: &str) -> Result<Kind> {
    match name {
        "float32" | "fp32" => Ok(Kind::Float),
        "bfloat16" | "bf16" => Ok(Kind::BFloat16),
        other => Err(ModelError::Invalid(format!("dtype: expected float32 or bfloat16, got {other}"))),
    }
}

/// Sets the threads that one operation may use, and one thread for running operations side by side.
///
/// Call it before the first operation: the sums of a matrix product depend on the number of threads.
pub fn set_threads(intra_op: usize) {
    static INTER_OP: OnceLock<()> = OnceLock::new();
    // libtorch refuses a second call, and any call after the first parallel operation.
    INTER_OP.get_or_init(|| tch::set_num_interop_threads(1));
    tch::set_num_threads(intra_op.max(1) as i32);
}

/// Opens `libtorch_cuda.so` beside the libtorch that is running; once.
fn open_cuda() -> Result<(), String> {
    static OPENED: OnceLock<Result<(), String>> = OnceLock::new();
    OPENED
        .get_or_init(|| {
            let folder = libtorch_folder().ok_or("the folder of libtorch_cpu.so is not known")?;
            let path = folder.join("libtorch_cuda.so");
            if !path.exists() {
                return Err(format!("{} is missing: this libtorch was built without CUDA", path.display()));
            }
            open_library(&path)
        })
        .clone()
}

/// Returns how many CUDA devices can be used; at least one.
///
/// # Errors
/// Why there are none, in words.
pub fn cuda_devices() -> Result<u32, String> {
    open_cuda()?;
    match Cuda::device_count() {
        count if count > 0 && Cuda::is_available() => Ok(count as u32),
        _ => Err("the CUDA driver shows no device".into()),
    }
}

/// Returns the version of the libtorch that is running, as its folder tells.
pub fn libtorch_version() -> Option<String> {
    let folder = libtorch_folder()?;
    let folder = folder.parent()?;
    // The C++ archive and the Python wheel, which both hold the library, say it in different files.
    if let Ok(text) = std::fs::read_to_string(folder.join("build-version")) {
        return Some(text.trim().to_string());
    }
    let text = std::fs::read_to_string(folder.join("version.py")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(line.trim_matches(['\'', '"']).to_string())
}

/// Returns the folder that libtorch was loaded from, as the dynamic loader knows it.
pub fn libtorch_folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    let path = line.find('/').map(|at| &line[at..])?;
    Path::new(path).parent().map(Path::to_path_buf)
}

#[expect(
    unsafe_code,
    reason = "dlopen and dlerror have no safe form; the handle is kept open for the life of the process"
)]
fn open_library(path: &Path) -> Result<(), String> {
    let name = CString::new(path.to_string_lossy().as_bytes()).map_err(|_| "the path holds a zero byte".to_string())?;
    // SAFETY: `name` is a valid C string; opening libtorch_cuda.so runs its registration of CUDA kernels, which libtorch_cpu.so expects.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror returns null or a string that stays valid until the next dl call of this thread.
    let reason = unsafe {
        let text = libc::dlerror();
        if text.is_null() { "unknown reason".to_string() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    Err(format!("{} cannot be loaded: {reason}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_refused_with_the_choices() {
        let message = device("gpu").unwrap_err().to_string();
        assert_eq!(message, "device gpu: expected cpu, cuda, cuda:N or auto");
        assert!(device("cuda:x").is_err());
        assert_eq!(device("cpu").unwrap(), Device::Cpu);
    }

    #[test]
    fn auto_always_finds_a_device() {
        assert!(device("auto").is_ok());
        assert!(libtorch_version().is_some_and(|version| version.starts_with("2.")));
        assert!(libtorch_folder().is_some_and(|folder| folder.join("libtorch_cpu.so").exists()));
    }
}
