//! The memory of a process: resident memory on a CPU, device memory on a GPU.

use std::{fs, process::Command};

/// The peak memory of a process since [`Peak::reset`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peak {
    /// The high-water mark of the resident size, which Linux records.
    Resident,
    /// The device memory that NVIDIA's driver has given the process. Allocators keep their memory, so this is a peak too, once memory of
    /// earlier works has been returned.
    Device,
}

impl Peak {
    /// Resets a process's resident peak. A device's peak is reset by returning the memory.
    pub(crate) fn reset(self, process: u32) {
        if let Self::Resident = self {
            fs::write(format!("/proc/{process}/clear_refs"), "5").ok();
        }
    }

    /// The peak in MiB; `None` if the system does not report it.
    pub(crate) fn mib(self, process: u32) -> Option<f64> {
        match self {
            Self::Resident => {
                let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix("VmHWM:"))?;
                let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
                Some(kib / 1024.0)
            }
            Self::Device => {
                let listed = nvidia_smi("--query-compute-apps=pid,used_gpu_memory")?;
                let of_process = |line: &str| {
                    let (id, mib) = line.split_once(',')?;
                    (id.trim().parse() == Ok(process)).then(|| mib.trim().parse().ok())?
                };
                listed.lines().find_map(of_process)
            }
        }
    }
}

/// The name of the processor or GPU, with further details.
pub(crate) fn machine(gpu: bool, threads: usize) -> String {
    if gpu {
        let found = nvidia_smi("--query-gpu=name,driver_version");
        return found.map_or("an unknown GPU".into(), |found| {
            found.trim().replacen(", ", ", driver ", 1)
        });
    }
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    processor(&info, threads)
}

/// The processor as listed by Linux. Virtual machines often hide the name, so family, model and the widest vector instructions follow it.
fn processor(info: &str, threads: usize) -> String {
    let field = |name: &str| {
        let values = info.lines().filter_map(|line| line.split_once(':'));
        let mut values = values.filter(|(key, _)| key.trim() == name);
        values.next().map(|(_, value)| value.trim())
    };
    let name = field("model name").unwrap_or("an unknown processor");
    let number = |name| field(name).unwrap_or("unknown");
    let (family, model) = (number("cpu family"), number("model"));
    let has = |flag: &str| field("flags").is_some_and(|all| all.split(' ').any(|f| f == flag));
    let vectors = ["avx512f", "avx2"].into_iter().find(|flag| has(flag));
    let vectors = vectors.unwrap_or("no avx2");
    format!("{name} (family {family}, model {model}, {vectors}), {threads} threads")
}

fn nvidia_smi(query: &str) -> Option<String> {
    let output = Command::new("nvidia-smi")
        .args([query, "--format=csv,noheader,nounits"])
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_told_by_more_than_its_name() {
        let info =
            "cpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Xeon\nflags\t\t: fma avx2 avx512f\n";
        let found = processor(info, 2);
        assert_eq!(found, "Xeon (family 6, model 207, avx512f), 2 threads");
        let found = processor("", 2);
        assert!(found.starts_with("an unknown processor"), "{found}");
    }
}
