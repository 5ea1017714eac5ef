//! Who computes next: requests first, and background work in slices that get at least a set share of the time.
//!
//! Rollouts and training share the machine with requests. Each piece of work passes through one turnstile, so that two
//! never slow each other down; while requests are there, background work waits until requests have had their share
//! since its last slice.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use candle_core::Device;

/// Background work owes at most this much time, so that one long slice does not lock it out for minutes.
const MAX_DEBT: Duration = Duration::from_secs(5);

/// How long a waiting slice sleeps before it looks again, should a notification be missed.
const POLL: Duration = Duration::from_millis(50);

/// One at a time, requests before background work.
#[derive(Debug)]
pub struct Turnstile {
    computing: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
    /// Part of the time that background work gets under load, in (0, 1].
    background_share: f64,
    /// Where the work is done. A GPU's is only queued when a call returns: a slice is over when the device has done it.
    device: Device,
}

#[derive(Debug, Default)]
struct State {
    requests_present: bool,
    /// Request time that background work has to let pass before its next slice.
    debt: Duration,
}

impl State {
    fn background_may_run(&self) -> bool {
        !self.requests_present || self.debt.is_zero()
    }
}

impl Turnstile {
    /// `background_share` is clamped to [0.01, 1].
    pub fn new(background_share: f64) -> Self {
        Self {
            computing: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            background_share: background_share.clamp(0.01, 1.0),
            device: Device::Cpu,
        }
    }

    /// The same for work that is done on this device.
    pub fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// Says whether requests are being answered or waiting.
    pub fn set_requests_present(&self, present: bool) {
        lock(&self.state).requests_present = present;
        self.changed.notify_all();
    }

    /// Computes for requests.
    pub fn request<R>(&self, work: impl FnOnce() -> R) -> R {
        let (result, elapsed) = self.compute(work);
        let mut state = lock(&self.state);
        state.debt = state.debt.saturating_sub(elapsed);
        self.changed.notify_all();
        result
    }

    /// Computes one slice of background work as soon as it may. Keep slices short: a request that arrives waits for
    /// the slice to end.
    pub fn background<R>(&self, work: impl FnOnce() -> R) -> R {
        let mut state = lock(&self.state);
        while !state.background_may_run() {
            state = self.changed.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.slice(work)
    }

    /// Like [`Self::background`], but returns `None` at once if it is not its turn.
    pub fn try_background<R>(&self, work: impl FnOnce() -> R) -> Option<R> {
        // The guard must be gone before the slice takes it again.
        let may_run = lock(&self.state).background_may_run();
        may_run.then(|| self.slice(work))
    }

    fn slice<R>(&self, work: impl FnOnce() -> R) -> R {
        let (result, elapsed) = self.compute(work);
        let owed = elapsed.mul_f64((1.0 - self.background_share) / self.background_share);
        let mut state = lock(&self.state);
        state.debt = (state.debt + owed).min(MAX_DEBT);
        result
    }

    fn compute<R>(&self, work: impl FnOnce() -> R) -> (R, Duration) {
        let _turn = lock(&self.computing);
        let started = Instant::now();
        let result = work();
        // What has failed there shows in the next operation, whoever makes it.
        let _ = self.device.synchronize();
        (result, started.elapsed())
    }
}

/// The guarded values are valid after every statement, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    const SLICE: Duration = Duration::from_millis(10);

    #[test]
    fn background_work_runs_at_once_without_requests() {
        let turnstile = Turnstile::new(0.25);
        for _ in 0..3 {
            assert!(turnstile.try_background(|| sleep(SLICE)).is_some());
        }
    }

    #[test]
    fn under_load_background_work_waits_until_requests_had_their_share() {
        let turnstile = Turnstile::new(0.25);
        turnstile.set_requests_present(true);
        assert!(turnstile.try_background(|| sleep(SLICE)).is_some(), "nothing is owed yet");
        let mut requests = 0;
        while turnstile.try_background(|| ()).is_none() {
            turnstile.request(|| sleep(SLICE));
            requests += 1;
        }
        assert!((2..=6).contains(&requests), "three times its own time, give or take a scheduler: {requests}");
    }

    #[test]
    fn waiting_background_work_goes_on_when_the_requests_are_gone() {
        let turnstile = Turnstile::new(0.01);
        turnstile.set_requests_present(true);
        turnstile.background(|| sleep(SLICE));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turnstile.background(|| 7));
            turnstile.set_requests_present(false);
            assert_eq!(waiting.join().ok(), Some(7));
        });
    }
}
