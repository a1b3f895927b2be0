use std::convert::Infallible;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::core::{Mailbox, PostError, Postbox, TscClock, Wake, mailbox};

/// Answers every message with its thread's name and id; panics at zero.
struct Echo {
    mailbox: Mailbox<u32>,
    answers: Sender<(u32, String)>,
    wake: Wake,
    drains_left: u32,
}

impl Poller for Echo {
    fn poll(&mut self, _now: Ticks) -> Poll {
        let Some(message) = self.mailbox.take() else { return Poll::Idle };
        assert_ne!(message, 0, "zero came in");
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = self.answers.send((message, name));
        Poll::Busy(1)
    }

    fn wake_source(&self) -> Wake {
        self.wake
    }

    fn wake_event(&self) -> Option<Arc<WakeEvent>> {
        Some(Arc::clone(self.mailbox.event()))
    }

    fn drain(&mut self, now: Ticks) -> bool {
        while self.poll(now) != Poll::Idle {}
        self.drains_left = self.drains_left.saturating_sub(1);
        self.drains_left == 0
    }
}

fn core() -> u32 {
    core_affinity::get_core_ids().unwrap()[0].id as u32
}

fn echo(idle: IdlePolicy, wake: Wake, drains_left: u32) -> (ReactorHandle, Postbox<u32>, Receiver<(u32, String)>) {
    let (postbox, mailbox) = mailbox(8).unwrap();
    let (answers, answered) = channel();
    let make = move || Ok::<_, Infallible>(Echo { mailbox, answers, wake, drains_left });
    (Reactor::spawn(core(), "reactor_0", idle, TscClock::new(), make).unwrap(), postbox, answered)
}

#[test]
fn every_policy_answers_and_drains() {
    for idle in [IdlePolicy::Spin, IdlePolicy::Adaptive, IdlePolicy::Sleep] {
        for wake in [Wake::Event, Wake::Timed] {
            let (reactor, postbox, answered) = echo(idle, wake, 3);
            for message in 1..=20 {
                postbox.post(message).unwrap();
                assert_eq!(answered.recv().unwrap(), (message, "reactor_0".to_owned()));
            }
            assert!(reactor.tid() > 0 && !reactor.is_finished());
            reactor.stop();
            let end = reactor.join().unwrap();
            assert!(end.drained);
            assert_eq!((end.counters.items, end.counters.busy_turns), (20, 20), "{idle} {wake:?}");
            assert_eq!(postbox.post(1), Err(PostError::Stopped(1)));
            assert!(idle != IdlePolicy::Spin || end.counters.sleeps == 0);
        }
    }
}

#[test]
fn a_sleeper_is_woken_and_the_wake_up_measured() {
    let (reactor, postbox, answered) = echo(IdlePolicy::Sleep, Wake::Event, 1);
    let mut message = 1;
    // Until a message came while it slept, and that was published.
    while reactor.snapshot().wake.count == 0 {
        postbox.post(message).unwrap();
        answered.recv().unwrap();
        message += 1;
    }
    let wake = reactor.snapshot().wake;
    assert!(wake.max_nanos > 0 && wake.sum_nanos >= wake.max_nanos);
    reactor.stop();
    assert!(reactor.join().unwrap().counters.sleeps > 0);
}

#[test]
fn a_poller_that_does_not_drain_is_cut_off() {
    let (reactor, _postbox, _answered) = echo(IdlePolicy::Spin, Wake::Event, u32::MAX);
    reactor.stop_within(Duration::from_micros(100));
    assert!(!reactor.join().unwrap().drained);
}

#[test]
fn a_panic_is_reported() {
    let (reactor, postbox, _answered) = echo(IdlePolicy::Spin, Wake::Event, 1);
    postbox.post(0).unwrap();
    let panicked = reactor.join().unwrap_err();
    assert!(panicked.message.contains("zero came in"), "{panicked}");
    assert!(matches!(postbox.post(1), Err(PostError::Stopped(1))), "the poller is gone with its thread");
}

#[test]
fn what_goes_wrong_at_the_start_is_told() {
    let spawn = |core, make: fn() -> Result<Echo, &'static str>| {
        Reactor::spawn(core, "test", IdlePolicy::Spin, TscClock::new(), make).unwrap_err()
    };
    let refused = spawn(core(), || Err("no store"));
    assert!(matches!(refused, SpawnError::Poller { cause: "no store", .. }), "{refused:?}");
    let refused = spawn(core(), || panic!("half way"));
    assert!(matches!(&refused, SpawnError::Panicked { message, .. } if message == "half way"), "{refused:?}");
    let refused = spawn(1000, || Err("not reached"));
    assert!(matches!(refused, SpawnError::Pin { core: 1000 }), "{refused:?}");
}

#[test]
fn a_reactor_runs_on_its_core_alone() {
    let (tell, told) = channel();
    let make = move || {
        tell.send(core_affinity::get_core_ids()).unwrap();
        Err::<Echo, _>(())
    };
    assert!(Reactor::spawn(core(), "test", IdlePolicy::Spin, TscClock::new(), make).is_err());
    let cores = told.recv().unwrap().unwrap();
    assert_eq!(cores.iter().map(|id| id.id as u32).collect::<Vec<_>>(), [core()]);
}
