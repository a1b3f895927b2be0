//! The devices of a process, from the first host that comes in over one until nothing of it is left.
//!
//! A device that is removed and comes back is another one. Each has a number of its own for good, so that no order to a core
//! can mean the wrong one.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a device needs on each core, by core.
pub(super) type Ports<P> = Arc<[Arc<P>]>;

/// How far a device is.
enum Place<D, P> {
    Serving(D, Ports<P>),
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
    /// A device's number, and its ports.
    pub fn find(&self, device: &D) -> Option<(usize, Ports<P>)> {
        let places = self.places.iter().enumerate();
        places.into_iter().find_map(|(number, place)| match place {
            Place::Serving(known, ports) if known == device => Some((number, Arc::clone(ports))),
            _ => None,
        })
    }

    /// The number of the next device.
    pub fn next(&self) -> usize {
        self.places.len()
    }

    /// Enters a device under [`next`](Self::next).
    pub fn enter(&mut self, device: D, ports: Ports<P>) {
        self.places.push(Place::Serving(device, ports));
    }

    /// What the ports of a core hold, over all devices of which anything is left.
    pub fn held(&self, of_port: impl Fn(&P) -> u64) -> u64 {
        let held = |place: &Place<D, P>| match place {
            Place::Serving(_, ports) | Place::Left(ports, _) => {
                ports.iter().map(|port| of_port(port)).max().unwrap_or(0)
            }
            Place::Gone => 0,
        };
        self.places.iter().map(held).sum()
    }

    /// Goes on with the devices that are no longer there: has the cores `leave` each, unless one of them still has queues on
    /// it and says no; drops what it needed when that is `grace` ago and nobody else has any of it (`is_unused`), and has the
    /// cores `reclaim` what their ports held, which the device cannot reach any more then.
    pub fn retire(
        &mut self,
        grace: Duration,
        is_there: impl Fn(&D) -> bool,
        leave: impl Fn(usize) -> bool,
        is_unused: impl Fn(&P) -> bool,
        reclaim: impl Fn(usize),
    ) {
        for (number, place) in self.places.iter_mut().enumerate() {
            if let Place::Serving(device, ports) = place
                && !is_there(device)
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

    #[test]
    fn a_device_that_is_gone_is_dropped_before_the_cores_have_back_what_it_reached() {
        let (dropped, reclaimed, busy) = (AtomicU32::new(0), RefCell::new(Vec::new()), Cell::new(true));
        let part = |bytes| Arc::new(Part(bytes, &dropped));
        let mut table = DeviceTable::default();
        for (number, device) in ["a", "b"].into_iter().enumerate() {
            assert_eq!(table.next(), number);
            table.enter(device, [part(8), part(8)].into());
        }
        assert_eq!(table.held(|part| part.0), 16, "of each core");
        let (number, held) = table.find(&"b").unwrap();
        assert_eq!(number, 1);
        let on_core = Arc::clone(&held[0]);
        let (unused, grace) = (Cell::new(false), Cell::new(Duration::ZERO));
        let retire = |table: &mut DeviceTable<&str, Part<'_>>| {
            let reclaim = |number| {
                assert_eq!(dropped.load(Ordering::Relaxed), 2, "the device may still write there");
                reclaimed.borrow_mut().push(number);
            };
            table.retire(grace.get(), |device| *device != "b", |_| !busy.get(), |_| unused.get(), reclaim);
        };
        retire(&mut table);
        assert!(table.find(&"b").is_some(), "a core has queues on it");
        busy.set(false);
        retire(&mut table);
        assert!(table.find(&"b").is_none() && table.find(&"a").is_some());
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
        assert_eq!((table.held(|part| part.0), table.next()), (8, 2), "a number is not used again");
    }
}
