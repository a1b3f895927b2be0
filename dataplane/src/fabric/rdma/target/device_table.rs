//! The devices of a process, from the first host that comes in over one until nothing of it is left.
//!
//! What the cores have of a device is made anew when it is of no use any more: the device was removed and came back, its
//! completion queue failed, or so many of the receives that its queues share may be lost that hosts would soon wait for ever.
//! Every making has a number of its own until all of it is gone, so that no order to a core can mean the wrong one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// What a device needs on each core, by core.
pub(super) type Ports<P> = Arc<[Arc<P>]>;

/// Of how much use something of a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Nothing is wrong with it.
    Sound,
    /// It goes on, but is better not given more queues.
    Worn,
    /// It has failed, or is not there any more.
    Useless,
}

/// A condition that a core notes and control threads look at. It only ever gets worse.
#[derive(Debug, Default)]
pub(super) struct Wear(AtomicU8);

impl Wear {
    pub fn note(&self, condition: Condition) {
        self.0.fetch_max(condition as u8, Ordering::Release);
    }

    pub fn condition(&self) -> Condition {
        match self.0.load(Ordering::Acquire) {
            0 => Condition::Sound,
            1 => Condition::Worn,
            _ => Condition::Useless,
        }
    }
}

/// How far a making of a device is.
enum Place<D, P> {
    Serving(D, Ports<P>),
    /// It has queues, and is to have no more.
    Leaving(D, Ports<P>),
    /// The cores have left it since then; something of it may still be in use.
    Left(Ports<P>, Instant),
    /// The cores have back what their ports held.
    Gone,
}

/// The devices, by number. `D` is a device, and `P` what one needs on a core.
pub(super) struct DeviceTable<D, P> {
    places: Vec<Place<D, P>>,
}

impl<D, P> Default for DeviceTable<D, P> {
    fn default() -> Self {
        Self { places: Vec::new() }
    }
}

impl<D: PartialEq, P> DeviceTable<D, P> {
    /// A device's number and its ports, for a new queue. `None` if they are to be made, after [`retire`](Self::retire).
    pub fn find(&self, device: &D, condition: impl Fn(&P) -> Condition) -> Option<(usize, Ports<P>)> {
        let places = self.places.iter().enumerate();
        places.into_iter().find_map(|(number, place)| match place {
            Place::Serving(known, ports) if known == device => {
                let stays = self.stays(device, worst(ports, &condition));
                stays.then(|| (number, Arc::clone(ports)))
            }
            _ => None,
        })
    }

    /// What a device had before, if that is of some use: for when nothing better can be made.
    pub fn find_worn(&self, device: &D, condition: impl Fn(&P) -> Condition) -> Option<(usize, Ports<P>)> {
        let places = self.places.iter().enumerate();
        places.into_iter().find_map(|(number, place)| match place {
            Place::Leaving(known, ports) if known == device && worst(ports, &condition) < Condition::Useless => {
                Some((number, Arc::clone(ports)))
            }
            _ => None,
        })
    }

    /// Whether what serves a device goes on to. One that is worn does while its predecessor still has queues: each keeps
    /// memory that others need.
    fn stays(&self, device: &D, condition: Condition) -> bool {
        let is_left = |place: &Place<D, P>| matches!(place, Place::Leaving(known, _) if known == device);
        match condition {
            Condition::Sound => true,
            Condition::Worn => self.places.iter().any(is_left),
            Condition::Useless => false,
        }
    }

    /// Enters a device, and returns its number.
    pub fn enter(&mut self, device: D, ports: Ports<P>) -> usize {
        let place = Place::Serving(device, ports);
        match self.places.iter().position(|place| matches!(place, Place::Gone)) {
            Some(number) => {
                self.places[number] = place;
                number
            }
            None => {
                self.places.push(place);
                self.places.len() - 1
            }
        }
    }

    /// What the ports of a core hold, over all devices of which anything is left.
    pub fn held(&self, of_port: impl Fn(&P) -> u64) -> u64 {
        let held = |place: &Place<D, P>| match place {
            Place::Serving(_, ports) | Place::Leaving(_, ports) | Place::Left(ports, _) => {
                ports.iter().map(|port| of_port(port)).max().unwrap_or(0)
            }
            Place::Gone => 0,
        };
        self.places.iter().map(held).sum()
    }

    /// Goes on with devices that are not there any more, and with what is to be made anew by its `condition`: has the cores `leave` it, unless one of
    /// them still has queues on it and says no; drops it when that is `grace` ago and nobody else has any of it (`is_unused`), and
    /// has the cores `reclaim` what their ports held, which the device cannot reach any more then.
    pub fn retire(
        &mut self,
        grace: Duration,
        is_there: impl Fn(&D) -> bool,
        condition: impl Fn(&P) -> Condition,
        leave: impl Fn(usize) -> bool,
        is_unused: impl Fn(&P) -> bool,
        reclaim: impl Fn(usize),
    ) {
        for number in 0..self.places.len() {
            if let Place::Serving(device, ports) = &self.places[number]
                && !(is_there(device) && self.stays(device, worst(ports, &condition)))
                && let Place::Serving(device, ports) = std::mem::replace(&mut self.places[number], Place::Gone)
            {
                self.places[number] = Place::Leaving(device, ports);
            }
            let place = &mut self.places[number];
            if let Place::Leaving(_, ports) = place
                && leave(number)
            {
                *place = Place::Left(Arc::clone(ports), Instant::now());
            }
            // Nobody can get hold of it anew, so what nobody else has now nobody will have.
            if let Place::Left(ports, since) = place
                && since.elapsed() >= grace
                && Arc::strong_count(ports) == 1
                && ports.iter().all(|port| Arc::strong_count(port) == 1 && is_unused(port))
            {
                *place = Place::Gone;
                reclaim(number);
            }
        }
    }
}

fn worst<P>(ports: &Ports<P>, condition: &impl Fn(&P) -> Condition) -> Condition {
    ports.iter().map(|port| condition(port)).max().unwrap_or(Condition::Sound)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A device's part on a core, which notes when it is dropped.
    struct Part<'a>(u64, &'a AtomicU32);

    impl Drop for Part<'_> {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sound<P>(_: &P) -> Condition {
        Condition::Sound
    }

    #[test]
    fn a_device_that_is_gone_is_dropped_before_the_cores_have_back_what_it_reached() {
        let (dropped, reclaimed, busy) = (AtomicU32::new(0), RefCell::new(Vec::new()), Cell::new(true));
        let part = |bytes| Arc::new(Part(bytes, &dropped));
        let mut table = DeviceTable::default();
        for (number, device) in ["a", "b"].into_iter().enumerate() {
            assert_eq!(table.enter(device, [part(8), part(8)].into()), number);
        }
        assert_eq!(table.held(|part| part.0), 16, "of each core");
        let (number, held) = table.find(&"b", sound).unwrap();
        assert_eq!(number, 1);
        let on_core = Arc::clone(&held[0]);
        let (unused, grace) = (Cell::new(false), Cell::new(Duration::ZERO));
        let retire = |table: &mut DeviceTable<&str, Part<'_>>| {
            let reclaim = |number| {
                assert_eq!(dropped.load(Ordering::Relaxed), 2, "the device may still write there");
                reclaimed.borrow_mut().push(number);
            };
            table.retire(grace.get(), |device| *device != "b", sound, |_| !busy.get(), |_| unused.get(), reclaim);
        };
        retire(&mut table);
        assert!(table.find(&"b", sound).is_none() && table.find(&"a", sound).is_some(), "it is to have no more queues");
        assert!(table.find_worn(&"b", |_| Condition::Useless).is_none());
        busy.set(false);
        retire(&mut table);
        assert!(table.find_worn(&"b", |_| Condition::Worn).is_none(), "the cores have left it");
        assert_eq!(table.held(|part| part.0), 16, "the cores do not have it back yet");
        // What still has some of it: a listener, a core, a connection.
        drop(held);
        retire(&mut table);
        drop(on_core);
        retire(&mut table);
        assert_eq!((dropped.load(Ordering::Relaxed), reclaimed.borrow().len()), (0, 0));
        unused.set(true);
        grace.set(Duration::from_secs(3600));
        retire(&mut table);
        assert_eq!((dropped.load(Ordering::Relaxed), reclaimed.borrow().len()), (0, 0));
        grace.set(Duration::ZERO);
        for _ in 0..2 {
            retire(&mut table);
            assert_eq!((dropped.load(Ordering::Relaxed), reclaimed.borrow().as_slice()), (2, &[1][..]));
        }
        assert_eq!(table.held(|part| part.0), 8);
        assert_eq!(table.enter("b", [part(8)].into()), 1, "nothing is left of who had the number");
    }

    #[test]
    fn what_is_worn_is_replaced_once_at_a_time_and_serves_until_its_queues_have_ended() {
        let mut table = DeviceTable::default();
        let port = || Arc::new(Wear::default());
        let condition = |wear: &Wear| wear.condition();
        let busy = Cell::new(true);
        let retire = |table: &mut DeviceTable<&str, Wear>| {
            table.retire(Duration::ZERO, |_| true, condition, |_| !busy.get(), |_| true, |_| {});
        };
        let first = port();
        assert_eq!(table.enter("a", [port(), Arc::clone(&first)].into()), 0);
        assert!(table.find(&"a", condition).is_some_and(|(number, _)| number == 0));
        first.note(Condition::Worn);
        assert!(table.find(&"a", condition).is_none(), "another is to be made");
        retire(&mut table);
        assert!(table.find_worn(&"a", condition).is_some_and(|(number, _)| number == 0), "if none can be");
        let second = port();
        assert_eq!(table.enter("a", [Arc::clone(&second)].into()), 1);
        second.note(Condition::Worn);
        retire(&mut table);
        assert!(table.find(&"a", condition).is_some_and(|(number, _)| number == 1), "the first still has queues");
        second.note(Condition::Useless);
        assert!(table.find(&"a", condition).is_none(), "what has failed is replaced in any case");
        retire(&mut table);
        first.note(Condition::Useless);
        assert!(table.find_worn(&"a", condition).is_none(), "neither is of any use");
        // It gets no better.
        first.note(Condition::Sound);
        assert_eq!(first.condition(), Condition::Useless);
        drop((first, second));
        busy.set(false);
        retire(&mut table);
        assert_eq!(table.enter("a", [port()].into()), 0, "nothing is left of either");
    }
}
