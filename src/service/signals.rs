//! What an operator asks of a running daemon.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// A wish of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGUSR1: scan now.
    Scan,
    /// SIGUSR2: log the state of everything.
    Report,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM or SIGINT: finish and leave.
    Stop,
}

/// The signals that the daemon answers.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    user1: Stream,
    user2: Stream,
}

impl Signals {
    /// Takes these signals over from their default action, which ends the process: call it before anything else.
    /// A signal that comes before the first [`Signals::next`] waits for it.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next wish. Equal ones that came together count once; a stop comes before all others, a reload after.
    /// May be dropped and called again: no signal is lost by it.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.user1.recv() => Signal::Scan,
            _ = self.user2.recv() => Signal::Report,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }

    /// Waits for a stop; every other wish is passed over.
    pub async fn stopped(&mut self) {
        while self.next().await != Signal::Stop {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal as Unix, raise};

    // The only test that sends signals to this process: the handlers are the whole process's.
    #[tokio::test]
    async fn each_signal_is_told_apart_and_none_is_lost_before_the_first_wait() {
        let mut signals = Signals::install().unwrap();
        raise(Unix::SIGUSR1).unwrap();
        assert_eq!(signals.next().await, Signal::Scan);
        raise(Unix::SIGUSR2).unwrap();
        assert_eq!(signals.next().await, Signal::Report);
        raise(Unix::SIGHUP).unwrap();
        assert_eq!(signals.next().await, Signal::Reload);
        raise(Unix::SIGINT).unwrap();
        assert_eq!(signals.next().await, Signal::Stop);
        raise(Unix::SIGTERM).unwrap();
        assert_eq!(signals.next().await, Signal::Stop);
    }
}
