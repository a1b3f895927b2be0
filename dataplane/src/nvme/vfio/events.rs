//! Asynchronous events: asked for, heard, and kept from becoming a flood.

use super::admin::DATA_BYTES;
use super::control::Control;
use super::log_pages::HEALTH_BYTES;
use super::{ControllerEvent, lock};
use crate::nvme::spec::admin;

/// Event requests that are kept outstanding, if the controller takes as many.
const EVENT_REQUESTS: u16 = 4;
/// Milliseconds in which an event that comes again is only counted. Its log page is read after them, and before that a
/// controller that keeps to the specification sends no other of the kind.
const QUIET: u64 = 1000;
/// Different events within that time; more are only counted.
const MOST_HEARD: usize = 16;

/// An event that was heard lately.
pub(super) struct Heard {
    event: ControllerEvent,
    since: u64,
    /// How often it came again.
    repeats: u64,
}

impl Control {
    /// Tells which events are wanted. What the controller refuses is not worth failing for.
    pub(super) fn ask_for_events(&mut self) {
        // Every critical warning; namespace attributes (bit 8) and firmware activation (bit 9) if there are such.
        let wanted = 0x1F | (self.info.optional_events & 0x300);
        let sqe = admin::set_features(admin::feature::ASYNC_EVENT_CONFIGURATION, wanted);
        if let Err(error) = self.admin.run("Set Features (asynchronous events)", sqe) {
            tracing::warn!(function = self.function.name(), %error, "the controller tells of no events");
        }
        self.keep_asking();
    }

    /// Keeps event requests outstanding.
    fn keep_asking(&mut self) {
        let wanted = usize::from(self.info.event_limit.min(EVENT_REQUESTS));
        while self.admin.event_requests() < wanted && self.admin.request_event() {}
        if let Some(status) = self.admin.take_event_refusal() {
            tracing::warn!(function = self.function.name(), %status, "the controller refuses to tell of events");
        }
    }

    /// Keeps and logs what the controller had to tell, and asks for more. Whether a namespace changed.
    pub(super) fn hear_events(&mut self) -> bool {
        let mut changed = false;
        for dword0 in self.admin.take_events() {
            self.counters.events += 1;
            changed |= self.hear(ControllerEvent::parse(dword0));
        }
        // Those that came again while nobody listened.
        let now = self.now;
        let (over, lately): (Vec<_>, Vec<_>) =
            self.heard.drain(..).partition(|heard| now.saturating_sub(heard.since) >= QUIET);
        self.heard = lately;
        for Heard { event, repeats, .. } in over {
            if repeats > 0 {
                tracing::warn!(function = self.function.name(), repeats, ?event, "an event came again and again");
                changed |= self.hear(event);
            }
        }
        self.keep_asking();
        changed
    }

    /// Takes one event to heart, unless it was heard lately. Whether a namespace changed.
    fn hear(&mut self, event: ControllerEvent) -> bool {
        if let Some(heard) = self.heard.iter_mut().find(|heard| heard.event == event) {
            heard.repeats += 1;
            return false;
        }
        if self.heard.len() >= MOST_HEARD {
            return false;
        }
        self.heard.push(Heard { event, since: self.now, repeats: 0 });
        tracing::warn!(
            function = self.function.name(),
            kind = event.kind,
            information = event.information,
            log_page = event.log_page,
            "the controller sent an event"
        );
        lock(&self.board).keep_event(event);
        // No further event of the kind comes before its log page was read.
        let mut page = [0; DATA_BYTES];
        let bytes = if event.log_page == admin::log::CHANGED_NAMESPACES { DATA_BYTES } else { HEALTH_BYTES };
        let sqe = admin::get_log_page(event.log_page, bytes as u32);
        if let Err(error) = self.admin.fetch("Get Log Page (event)", sqe, &mut page[..bytes]) {
            tracing::warn!(function = self.function.name(), %error, "the event's log page cannot be read");
        }
        event.is_namespace_change()
    }
}
