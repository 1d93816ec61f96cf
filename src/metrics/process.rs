//! The metrics of a process that Prometheus' own libraries export, under their names, from /proc.

use std::fmt;
use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::encoder::Encoder;

/// This process. What can't be read is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut encoder = Encoder(encoder);
        let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some(stat) = Stat::parse(&text) {
            stat.encode(&mut encoder)?;
        }
        let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
        encoder.gauge("process_open_fds", "Open file descriptors", open)?;
        let most = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(most, _)| most);
        encoder.gauge("process_max_fds", "Most file descriptors that may be open", most)
    }
}

/// Fields of /proc/self/stat, in its units: see proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name of the program is in brackets, and may hold blanks and brackets.
        let (_, rest) = text.rsplit_once(") ")?;
        // The first of them is the third field of the manual.
        let fields: Vec<_> = rest.split(' ').collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: number(14)? + number(15)?,
            start_ticks: number(22)?,
            resident_pages: number(24)?,
        })
    }

    #[allow(clippy::cast_precision_loss, reason = "ticks since the start of the machine fit")]
    fn encode(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        if let Some(hertz) = system(SysconfVar::CLK_TCK) {
            let seconds = |ticks: u64| ticks as f64 / hertz as f64;
            let cpu = seconds(self.cpu_ticks);
            encoder.counter("process_cpu_seconds", "CPU time, user and system", cpu)?;
            let started = booted_at().map(|booted| booted as f64 + seconds(self.start_ticks));
            encoder.gauge("process_start_time_seconds", "When the process started", started)?;
        }
        let resident = system(SysconfVar::PAGE_SIZE).map(|bytes| self.resident_pages * bytes);
        encoder.gauge("process_resident_memory_bytes", "Memory that is resident", resident)
    }
}

fn system(variable: SysconfVar) -> Option<u64> {
    sysconf(variable).ok()?.and_then(|value| u64::try_from(value).ok())
}

/// When the machine started, in seconds since 1970.
fn booted_at() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let booted = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    booted.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_may_hold_anything() {
        let rest = "S 1 2 2 0 -1 4194560 9 9 9 9 150 50 7 7 20 0 5 0 12345 99999999 4321 184467";
        for name in ["(certhookd)", "(cert hookd)", "(a) S 1 (b)", "())"] {
            let stat = Stat::parse(&format!("4711 {name} {rest}"));
            let expected = Stat {
                cpu_ticks: 200,
                start_ticks: 12345,
                resident_pages: 4321,
            };
            assert_eq!(stat, Some(expected), "{name}");
        }
        for text in ["", "4711 (certhookd", "4711 (certhookd) S 1 2"] {
            assert_eq!(Stat::parse(text), None, "{text}");
        }
    }
}
