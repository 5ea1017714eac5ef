//! What the machine has, and what this process takes of it.

use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

/// The memory in bytes that this process may take before the machine, or the limit that the process was given (its
/// control group), is short of it. What the system keeps of files counts as free: it is given up for the asking. `None`
/// where the system does not tell.
pub fn available_memory() -> Option<u64> {
    let what = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let mut system = System::new_with_specifics(what).ok()?;
    let machine = Some(system.available_memory()).filter(|bytes| *bytes > 0)?;
    let pid = Pid::from_u32(std::process::id());
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, ProcessRefreshKind::nothing());
    let limits = system.process(pid).and_then(|process| process.cgroup_limits());
    let allowed = limits.map(|limits| limits.total_memory.saturating_sub(limits.rss));
    Some(machine.min(allowed.unwrap_or(u64::MAX)))
}

/// The most memory in bytes that this process has been resident in; `None` where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    #[cfg(target_os = "linux")]
    let kilobytes = procfs::process::Process::myself().ok()?.status().ok()?.vmhwm;
    #[cfg(not(target_os = "linux"))]
    let kilobytes: Option<u64> = None;
    kilobytes.map(|kilobytes| kilobytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory_and_this_process_takes_some() {
        let (available, peak) = (available_memory().unwrap(), peak_memory().unwrap());
        assert!(available > 1 << 20 && peak > 1 << 20, "{available} {peak}");
    }
}
