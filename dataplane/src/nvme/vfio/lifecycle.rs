//! Stopping, starting, resetting and giving up a controller: the control side of the state machine.

use std::time::{Duration, Instant};

use super::admin::ENTRIES;
use super::control::{Control, NotMade};
use super::dma_space::DmaSpace;
use super::link::LinkState;
use super::pci::PciFunction;
use super::registers::{self, CC_ENABLE, Capabilities, ControllerStatus, offset};
use super::{ControllerState, OpenError};

/// How long a shutdown may take if the controller does not ask for more; it is stopped anyhow then.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take at the most.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(60);
/// How long a reset waits for queues to notice. Those that do not are not polled, and ring no doorbell.
const PARK_LIMIT: Duration = Duration::from_millis(20);
/// How long a reset waits for queues to come back before it leaves that to the next turn.
const RETURN_LIMIT: Duration = Duration::from_millis(20);
const NAP: Duration = Duration::from_micros(100);
/// Aborts outstanding at the most, whatever the controller takes: the admin queue has room for other commands.
const MAX_ABORTS: usize = 16;

fn status_of(function: &dyn PciFunction) -> ControllerStatus {
    ControllerStatus(function.read32(offset::CSTS))
}

fn wait(
    function: &dyn PciFunction,
    what: &'static str,
    limit: Duration,
    until: impl Fn(ControllerStatus) -> bool,
) -> Result<(), OpenError> {
    let deadline = Instant::now() + limit;
    loop {
        let status = status_of(function);
        if status.gone() {
            return Err(OpenError::lost(function));
        }
        if until(status) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(OpenError::TimedOut { what, waited: limit, csts: status.0 });
        }
        std::thread::sleep(NAP);
    }
}

/// Stops a controller: afterwards it takes no commands and touches no memory. One that does not stop by itself is cut off
/// from memory and reset through the bus. Gives what it can do.
pub(super) fn stop(function: &dyn PciFunction) -> Result<Capabilities, OpenError> {
    let capabilities = Capabilities(function.read64(offset::CAP));
    if capabilities.0 == u64::MAX || status_of(function).gone() {
        return Err(OpenError::lost(function));
    }
    let limit = capabilities.ready_limit(function.read32(offset::CRTO));
    let configuration = function.read32(offset::CC);
    if configuration & CC_ENABLE != 0 {
        // A change of readiness that is under way ends first (base, "Controller Configuration", EN); if it does not,
        // what follows tells.
        let _ = wait(function, "get ready", limit, |status| status.ready() || status.fatal());
        function.write32(offset::CC, configuration & !CC_ENABLE);
    }
    let Err(error) = wait(function, "stop", limit, |status| !status.ready()) else { return Ok(capabilities) };
    if error.is_loss() {
        return Err(error);
    }
    tracing::warn!(function = function.name(), %error, "resetting the function");
    reset_function(function)?;
    wait(function, "stop", limit, |status| !status.ready()).map(|()| capabilities)
}

/// Resets a function, kept from memory meanwhile if the bus lets itself be told.
fn reset_function(function: &dyn PciFunction) -> Result<(), OpenError> {
    if let Err(error) = function.set_bus_master(false) {
        tracing::warn!(function = function.name(), %error, "the function keeps its way to memory");
    }
    Ok(function.reset()?)
}

impl Control {
    fn status(&self) -> ControllerStatus {
        status_of(self.function.as_ref())
    }

    /// Stops the controller, see [`stop`].
    fn stop(&mut self) -> Result<(), OpenError> {
        self.capabilities = stop(self.function.as_ref())?;
        Ok(())
    }

    fn wait(
        &self,
        what: &'static str,
        limit: Duration,
        until: impl Fn(ControllerStatus) -> bool,
    ) -> Result<(), OpenError> {
        wait(self.function.as_ref(), what, limit, until)
    }

    /// Enables a controller that was stopped, with empty admin queues.
    pub(super) fn start(&mut self) -> Result<(), OpenError> {
        if self.capabilities.min_page_bytes() > registers::PAGE_BYTES {
            let bytes = self.capabilities.min_page_bytes();
            return Err(OpenError::Unusable(format!("its smallest page has {bytes} bytes, and the driver's 4096")));
        }
        if !self.capabilities.nvm_command_set() && !self.capabilities.many_command_sets() {
            return Err(OpenError::Unusable("it has no command set for blocks (CAP.CSS)".into()));
        }
        if self.capabilities.max_queue_entries() < 2 {
            return Err(OpenError::Absurd("its queues hold no entry (CAP.MQES)".into()));
        }
        self.function.set_bus_master(true)?;
        self.admin.restart(self.capabilities.doorbell_stride());
        self.function.write32(offset::AQA, (ENTRIES - 1) | ((ENTRIES - 1) << 16));
        self.function.write64(offset::ASQ, self.admin.sq_iova());
        self.function.write64(offset::ACQ, self.admin.cq_iova());
        self.function.write32(offset::CC, registers::enabling(self.capabilities));
        let limit = self.capabilities.ready_limit(self.function.read32(offset::CRTO));
        self.wait("get ready", limit, |status| status.ready() || status.fatal())?;
        if self.status().fatal() { Err(OpenError::Fatal) } else { Ok(()) }
    }

    /// Resets the controller and brings its queues back.
    pub(super) fn reset(&mut self, space: &DmaSpace, why: &str) -> Result<(), OpenError> {
        self.state.check()?;
        tracing::warn!(function = self.function.name(), why, "resetting the controller");
        self.state = ControllerState::Resetting;
        self.counters.resets += 1;
        self.late.clear();
        self.publish(space);
        for record in self.queues.iter().flatten() {
            record.link.step(LinkState::Live, LinkState::Stop);
        }
        self.await_parking();
        match self.restart(space) {
            Ok(()) => {
                self.state = ControllerState::Ready;
                self.await_queues();
                self.publish(space);
                Ok(())
            }
            Err(error) => {
                self.give_up(&error, space);
                Err(error)
            }
        }
    }

    fn restart(&mut self, space: &DmaSpace) -> Result<(), OpenError> {
        self.note_subsystem_reset();
        self.stop()?;
        self.forget_queues(space);
        let cached = self.info.volatile_cache;
        let Err(first) = self.begin_anew(cached, space) else { return Ok(()) };
        if first.is_loss() || matches!(first, OpenError::CacheLost(_)) {
            return Err(first);
        }
        tracing::warn!(function = self.function.name(), error = %first, "resetting the function");
        reset_function(self.function.as_ref())?;
        self.stop()?;
        self.begin_anew(cached, space)
    }

    /// Starts a controller that was stopped, and looks whether it still has what was written. `cached` is whether it had a
    /// volatile cache before.
    fn begin_anew(&mut self, cached: bool, space: &DmaSpace) -> Result<(), OpenError> {
        self.start()?;
        self.introduce(space)?;
        self.check_power(cached)
    }

    /// Gives back the memory of queues that could not be deleted. The controller was stopped, or cut off.
    fn forget_queues(&mut self, space: &DmaSpace) {
        for slot in &mut self.queues {
            if let Some(record) = slot {
                record.uncertain = false;
            }
            let Some(regions) = slot.as_mut().and_then(|record| record.left.take()) else { continue };
            *slot = None;
            for region in regions {
                if let Err(error) = space.release(&region) {
                    tracing::error!(function = self.function.name(), %error, "memory stays mapped");
                }
            }
        }
    }

    /// Gives queues that are polled the time to notice that they shall stop.
    fn await_parking(&self) {
        let deadline = Instant::now() + PARK_LIMIT;
        while self.any_link(LinkState::Stop) && Instant::now() < deadline {
            std::thread::sleep(NAP);
        }
    }

    fn any_link(&self, state: LinkState) -> bool {
        self.queues.iter().flatten().any(|record| record.link.state() == state)
    }

    /// Gives queues that are polled the time to come back.
    fn await_queues(&mut self) {
        let deadline = Instant::now() + RETURN_LIMIT;
        loop {
            self.tend_queues();
            let waiting = [LinkState::Stop, LinkState::Parked, LinkState::Stopped, LinkState::Ready];
            if !waiting.into_iter().any(|state| self.any_link(state)) || Instant::now() > deadline {
                return;
            }
            std::thread::sleep(NAP);
        }
    }

    /// Takes queues on by a step, as far as they have come. The controller was stopped since they left `Live`.
    fn tend_queues(&mut self) {
        for slot in 0..self.queues.len() {
            let Some(record) = &self.queues[slot] else { continue };
            if record.left.is_some() {
                continue;
            }
            record.link.step(LinkState::Parked, LinkState::Stopped);
            if record.link.state() != LinkState::Ready {
                continue;
            }
            let (qid, shape, link, terms) =
                (slot as u16 + 1, record.shape, std::sync::Arc::clone(&record.link), record.terms);
            let changed = |what| OpenError::Changed { nsid: terms.namespace.nsid, what };
            let made = match terms.broken(self) {
                Some(what) => Err(changed(what).into()),
                None if qid > self.granted => Err(changed("the controller grants fewer queues").into()),
                None => self.create_queue(qid, &shape),
            };
            match made {
                Ok(()) => _ = link.step(LinkState::Ready, LinkState::Live),
                Err(NotMade { error, uncertain }) => {
                    if let Some(record) = &mut self.queues[slot] {
                        record.uncertain = uncertain;
                    }
                    if self.admin.stuck() {
                        // The controller will be reset, and the queue waits for that.
                        return;
                    }
                    tracing::error!(function = self.function.name(), qid, %error, "the queue does not come back");
                    // Ready, and the controller has no submission queue to take commands from.
                    link.kill();
                }
            }
        }
    }

    /// Looks namespaces up anew, and ends the queues of those that are not what they were.
    fn follow_namespaces(&mut self) -> Result<(), OpenError> {
        self.find_namespaces()?;
        let mut ended = Vec::new();
        for (record, qid) in self.queues.iter().zip(1_u16..) {
            let Some(record) = record.as_ref().filter(|record| record.left.is_none()) else { continue };
            // Those that are on their way back are looked at before they are made.
            let Some(what) = record.terms.broken(self) else { continue };
            if record.link.step(LinkState::Live, LinkState::Stop) {
                tracing::error!(function = self.function.name(), qid, what, "the queue ends");
                ended.push((qid, std::sync::Arc::clone(&record.link)));
            }
        }
        if !ended.is_empty() {
            self.await_parking();
        }
        for (qid, link) in ended {
            self.delete_queue(qid)?;
            // The controller knows the queue no more, and is through with its commands.
            link.kill();
        }
        Ok(())
    }

    /// The controller does not come back. Its queues are told only when it can reach no memory any more.
    fn give_up(&mut self, error: &OpenError, space: &DmaSpace) {
        let gone = matches!(error, OpenError::Gone);
        tracing::error!(function = self.function.name(), %error, "the controller is given up");
        self.state = if gone { ControllerState::Removed } else { ControllerState::Failed(error.to_string()) };
        if !self.cut_off(space) {
            tracing::error!(function = self.function.name(), "it cannot be kept from memory; its commands stay open");
        }
        self.publish(space);
    }

    /// Keeps the controller from memory, and tells the queues once that is certain; whether it is.
    fn cut_off(&mut self, space: &DmaSpace) -> bool {
        // So that the IOMMU has nothing to complain of. It proves nothing: a register may hold what it was written with and
        // mean nothing by it.
        let _ = self.function.set_bus_master(false);
        let revoked = space.revoke();
        let certain = revoked || self.function.is_gone() || self.stops_by_reset();
        if certain {
            for record in self.queues.iter().flatten() {
                record.link.kill();
            }
            self.forget_queues(space);
        }
        certain
    }

    fn stops_by_reset(&self) -> bool {
        let reset = self.function.reset().is_ok();
        let status = self.status();
        reset && !status.gone() && !status.ready()
    }

    /// One turn of looking after the controller.
    pub(super) fn service(&mut self, space: &DmaSpace, elapsed: Duration) {
        self.now = self.now.wrapping_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        for record in self.queues.iter().flatten() {
            record.link.set_tick(self.now as u32);
        }
        if self.state != ControllerState::Ready {
            // Once more, for queues made since and for a bus that refused before.
            if self.queues.iter().flatten().any(|record| record.link.state() != LinkState::Dead) {
                self.cut_off(space);
            }
            return;
        }
        let status = self.status();
        let trouble = match () {
            () if status.gone() => return self.give_up(&OpenError::lost(self.function.as_ref()), space),
            () if status.fatal() => Some("it says that it failed (CSTS.CFS)"),
            () if !status.ready() => Some("it is not ready any more"),
            () if self.admin.stuck() => Some("an admin command got no answer"),
            () => self.abort_late(),
        };
        if let Some(why) = trouble {
            // Given up if that fails, and said so in the log.
            let _ = self.reset(space, why);
            return;
        }
        if self.hear_events()
            && let Err(error) = self.follow_namespaces()
        {
            let _ = self.reset(space, &format!("namespaces changed: {error}"));
            return;
        }
        self.tend_queues();
        self.tell_strays();
        self.publish(space);
    }

    /// Aborts commands that took too long. Why the controller must be reset, if that did not help before.
    fn abort_late(&mut self) -> Option<&'static str> {
        self.admin.gather();
        for (record, qid) in self.queues.iter().zip(1..) {
            let Some(record) = record else { continue };
            if record.left.is_some() || record.link.state() != LinkState::Live {
                continue;
            }
            let Some(expired) = record.link.take_expired() else { continue };
            if expired.again {
                return Some("a command took too long, and aborting it did not help");
            }
            self.late.push_back((qid, expired.cid));
        }
        let limit = u64::try_from(self.options.admin_timeout.as_millis()).unwrap_or(u64::MAX);
        if self.admin.aborts().any(|sent| self.now.saturating_sub(sent) > limit) {
            return Some("an Abort got no answer");
        }
        let most = usize::from(self.info.abort_limit).min(MAX_ABORTS);
        // One that waits here too long is reported again by its queue, which resets the controller.
        while self.admin.aborts().count() < most
            && let Some((qid, cid)) = self.late.pop_front()
        {
            tracing::warn!(function = self.function.name(), qid, cid, "aborting a command");
            self.counters.aborts += 1;
            if !self.admin.abort(qid, cid, self.now) {
                return Some("a command took too long, and there is no room to abort it");
            }
        }
        None
    }

    fn tell_strays(&mut self) {
        for (record, qid) in self.queues.iter_mut().zip(1_u16..) {
            let Some(record) = record else { continue };
            let strays = record.link.strays();
            if strays > record.told_strays {
                record.told_strays = strays;
                tracing::error!(
                    function = self.function.name(),
                    qid,
                    strays,
                    "the controller completed commands that were not outstanding"
                );
            }
        }
    }

    /// Shuts the controller down, and keeps it from memory as far as it lets itself be told.
    pub(super) fn shut_down(&mut self) {
        let status = self.status();
        if !status.gone() && status.ready() && !status.fatal() && self.state == ControllerState::Ready {
            let limit = self.info.shutdown_time.clamp(SHUTDOWN_LIMIT, LONGEST_SHUTDOWN);
            let configuration = self.function.read32(offset::CC);
            self.function.write32(offset::CC, registers::shutting_down(configuration));
            if let Err(error) = self.wait("shut down", limit, ControllerStatus::shut_down) {
                tracing::warn!(function = self.function.name(), %error, "stopping it without");
            }
        }
        match self.stop() {
            Ok(()) | Err(OpenError::Gone) => {}
            Err(error) => tracing::warn!(function = self.function.name(), %error, "the controller did not stop"),
        }
        // For one that says that it stopped may be wrong.
        if let Err(error) = self.function.set_bus_master(false)
            && !self.function.is_gone()
        {
            tracing::warn!(function = self.function.name(), %error, "the function keeps its way to memory");
        }
    }
}
