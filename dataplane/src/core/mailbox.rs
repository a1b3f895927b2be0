//! A bounded queue into a core, from other cores and from control threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::ArrayQueue;

use super::WakeEvent;

struct Shared<M> {
    queue: ArrayQueue<M>,
    stopped: AtomicBool,
    event: Arc<WakeEvent>,
}

impl<M> Shared<M> {
    /// Drops what lies in a mailbox that nobody will empty any more. Called after a message was pushed and the event's
    /// `wake`.
    ///
    /// The fence in `wake` lies between the push and the look at `stopped`, the one of the mailbox's destructor between
    /// the store to `stopped` and the last look into the queue: one of the two sees what the other did, so no message
    /// (nor the answer that somebody awaits from it) lies there for ever.
    fn drain_if_stopped(&self) {
        if self.stopped.load(Ordering::Acquire) {
            self.drain();
        }
    }

    fn drain(&self) {
        while self.queue.pop().is_some() {}
    }
}

/// Why a message was not taken; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum PostError<M> {
    /// No room now: the core is behind.
    Full(M),
    /// The core has stopped, and will take nothing any more.
    Stopped(M),
}

impl<M> PostError<M> {
    /// The message.
    pub fn into_inner(self) -> M {
        match self {
            Self::Full(message) | Self::Stopped(message) => message,
        }
    }
}

/// The end that messages are put into. Cheap to clone, for any thread.
pub struct Postbox<M> {
    shared: Arc<Shared<M>>,
}

/// The end that its core takes messages out of. Dropping it stops the mailbox; what still lies in it is dropped.
pub struct Mailbox<M> {
    shared: Arc<Shared<M>>,
}

/// A mailbox for `capacity` messages (at least one), with an event of its own.
///
/// # Errors
/// What `eventfd` says.
pub fn mailbox<M>(capacity: usize) -> io::Result<(Postbox<M>, Mailbox<M>)> {
    Ok(mailbox_on(capacity, Arc::new(WakeEvent::new()?)))
}

/// A mailbox for `capacity` messages (at least one) of a core that sleeps on `event`.
#[must_use]
pub fn mailbox_on<M>(capacity: usize, event: Arc<WakeEvent>) -> (Postbox<M>, Mailbox<M>) {
    let queue = ArrayQueue::new(capacity.max(1));
    let shared = Arc::new(Shared { queue, stopped: AtomicBool::new(false), event });
    (Postbox { shared: Arc::clone(&shared) }, Mailbox { shared })
}

impl<M> Postbox<M> {
    /// Puts a message in, and wakes the core if it sleeps. Never waits. A message that is taken just as the core stops
    /// may be dropped there.
    ///
    /// # Errors
    /// The message, if there is no room or the core has stopped.
    pub fn post(&self, message: M) -> Result<(), PostError<M>> {
        if self.stopped() {
            return Err(PostError::Stopped(message));
        }
        self.shared.queue.push(message).map_err(PostError::Full)?;
        // Its first step is a sequentially consistent fence, which `drain_if_stopped` needs as well.
        self.shared.event.wake();
        self.shared.drain_if_stopped();
        Ok(())
    }

    /// Whether the core has stopped.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }
}

impl<M> Clone for Postbox<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M> Mailbox<M> {
    /// The oldest message. With none there, it costs two loads.
    #[must_use]
    pub fn take(&mut self) -> Option<M> {
        // `pop` has a full fence on its way to finding nothing.
        if self.shared.queue.is_empty() { None } else { self.shared.queue.pop() }
    }

    /// How many messages wait, about.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.queue.len()
    }

    /// Whether no message waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }

    /// The event that a message sets; for further mailboxes of the same core, and for its reactor.
    #[must_use]
    pub fn event(&self) -> &Arc<WakeEvent> {
        &self.shared.event
    }
}

impl<M> Drop for Mailbox<M> {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.shared.drain();
    }
}

impl<M> std::fmt::Debug for Postbox<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postbox").field("waiting", &self.shared.queue.len()).finish_non_exhaustive()
    }
}

impl<M> std::fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("waiting", &self.shared.queue.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn messages_come_in_order_until_it_is_full() {
        let (postbox, mut mailbox) = mailbox(2).unwrap();
        assert_eq!(mailbox.take(), None);
        assert_eq!((postbox.post(1), postbox.post(2)), (Ok(()), Ok(())));
        assert_eq!(postbox.post(3), Err(PostError::Full(3)));
        assert_eq!((mailbox.take(), mailbox.take(), mailbox.take()), (Some(1), Some(2), None));
    }

    #[test]
    fn a_stopped_core_hands_messages_back() {
        let (postbox, mailbox) = mailbox(2).unwrap();
        let held = Arc::new(());
        postbox.post(Arc::clone(&held)).unwrap();
        drop(mailbox);
        assert_eq!(Arc::strong_count(&held), 1, "what was still in it is gone");
        assert!(matches!(postbox.post(held), Err(PostError::Stopped(_))));
    }

    #[test]
    fn a_message_that_slips_in_as_the_core_stops_is_dropped() {
        let (postbox, mailbox) = mailbox(2).unwrap();
        let held = Arc::new(());
        // The window between the check and the push, held open: the core stops in between.
        assert!(!postbox.stopped());
        drop(mailbox);
        postbox.shared.queue.push(Arc::clone(&held)).unwrap();
        postbox.shared.drain_if_stopped();
        assert_eq!(Arc::strong_count(&held), 1, "nobody would ever take it");
    }

    #[test]
    fn no_message_outlives_a_core_that_stops_while_others_post() {
        for _ in 0..200 {
            let (postbox, mailbox) = mailbox(64).unwrap();
            let held = Arc::new(());
            let (begin, message) = (Arc::new(std::sync::Barrier::new(2)), Arc::clone(&held));
            let (theirs, their_postbox) = (Arc::clone(&begin), postbox.clone());
            let poster = std::thread::spawn(move || {
                theirs.wait();
                while their_postbox.post(Arc::clone(&message)).is_ok() {}
            });
            begin.wait();
            drop(mailbox);
            poster.join().unwrap();
            // The postbox still lives, and holds nothing.
            assert_eq!(Arc::strong_count(&held), 1);
            drop(postbox);
        }
    }

    /// A sleeper that waits without a limit hangs here if a single wake-up is lost.
    #[test]
    fn no_wake_up_is_lost() {
        const MESSAGES: u32 = 20_000;
        let (postbox, mut mailbox) = mailbox(4).unwrap();
        let posters: Vec<_> = (0..2)
            .map(|_| {
                let postbox = postbox.clone();
                std::thread::spawn(move || {
                    for message in 0..MESSAGES {
                        let mut message = message;
                        while let Err(back) = postbox.post(message) {
                            message = back.into_inner();
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut taken = 0;
        while taken < 2 * MESSAGES {
            if mailbox.take().is_some() {
                taken += 1;
                continue;
            }
            let event = Arc::clone(mailbox.event());
            event.announce_sleep();
            if mailbox.is_empty() {
                assert!(event.wait(Duration::from_secs(600)).is_some());
            } else {
                event.stay_awake();
            }
        }
        for poster in posters {
            poster.join().unwrap();
        }
    }
}
