//! How a client judges what it is answered.

use dataplane::fabric::Completion;
use dataplane::nvme::spec::Status;
use dataplane::nvme::spec::vendor::KeyState;

use super::{Asked, BLANK, Client, Command, Leave, Violation, checksum};
use crate::oracle::Version;

impl Client {
    /// Checks an answer.
    ///
    /// # Errors
    /// What it violates.
    pub fn answered(&mut self, cid: u16, completion: Completion) -> Result<(), Violation> {
        let Some(Command { asked, buffer, offset, leave }) = self.commands.remove(&cid) else {
            return Err(Violation(format!("command {cid} was completed twice or never sent")));
        };
        self.free.push(buffer);
        self.checked += 1;
        let status = completion.status;
        let refused = status == Status::INVALID_NAMESPACE && leave != Leave::Given;
        match asked {
            Asked::Other => Ok(()),
            Asked::Store { key } | Asked::Delete { key } if refused => {
                self.refused += 1;
                self.oracle.write_refused(key);
                Ok(())
            }
            Asked::Retrieve { room, .. } if refused => {
                self.refused += 1;
                self.check_rest(0, room, offset)
            }
            _ if refused => {
                self.refused += 1;
                Ok(())
            }
            _ if leave == Leave::Denied => Err(Violation(format!("{status} for a client without a namespace"))),
            Asked::Store { key } => {
                self.oracle.write_ended(key, status.is_success());
                self.widen(key);
                expect(status, &[Status::SUCCESS, Status::CAPACITY_EXCEEDED, Status::INTERNAL_ERROR], "Store")
            }
            Asked::Delete { key } => {
                let gone = status.is_success() || status == Status::KEY_DOES_NOT_EXIST;
                self.oracle.write_ended(key, gone);
                self.widen(key);
                expect(status, &[Status::SUCCESS, Status::KEY_DOES_NOT_EXIST, Status::INTERNAL_ERROR], "Delete")
            }
            Asked::Retrieve { allowed, key, room } => self.retrieved(completion, &allowed, key, room, offset),
            Asked::Exist { allowed, key } => {
                let present = status.is_success();
                check_presence(present, &allowed, key)?;
                expect(status, &[Status::SUCCESS, Status::KEY_DOES_NOT_EXIST], "Exist")
            }
            Asked::Prefix { keys, allowed, leased } => {
                expect(status, &[Status::SUCCESS], "Lookup Prefix")?;
                let hits = completion.dword0 as usize;
                if hits > keys.len() || (completion.dword1 != 0 && !leased) {
                    return Err(Violation(format!("a prefix of {hits} of {} keys", keys.len())));
                }
                for at in 0..hits {
                    check_presence(true, &allowed[at], keys[at])?;
                }
                if hits < keys.len() {
                    check_presence(false, &allowed[hits], keys[hits])?;
                }
                self.lease = (completion.dword1 != 0).then_some(completion.dword1);
                Ok(())
            }
            Asked::States { keys, allowed } => {
                expect(status, &[Status::SUCCESS], "Lookup State")?;
                self.states(&keys, &allowed, offset)
            }
        }
    }

    /// The connection ended before the answer came: a write happened or did not.
    pub fn unanswered(&mut self, cid: u16) {
        let Some(Command { asked, buffer, .. }) = self.commands.remove(&cid) else { return };
        self.free.push(buffer);
        if let Asked::Store { key } | Asked::Delete { key } = asked {
            self.oracle.write_ended(key, false);
            self.widen(key);
        }
    }

    /// Nothing but the value was written to the memory of a Retrieve.
    fn check_rest(&self, whole: u32, room: u32, offset: u64) -> Result<(), Violation> {
        if self.plan.link.is_none() {
            return Ok(());
        }
        let moved = whole.min(room);
        let mut rest = vec![BLANK; (room - moved) as usize];
        let _ = self.region.read(offset + u64::from(moved), &mut rest);
        match rest.iter().position(|&byte| byte != BLANK) {
            Some(at) => Err(Violation(format!("byte {at} behind a value of {moved} bytes was written to"))),
            None => Ok(()),
        }
    }

    fn states(&self, keys: &[u32], allowed: &[Vec<Version>], offset: u64) -> Result<(), Violation> {
        for (at, &key) in keys.iter().enumerate() {
            let mut bytes = [0; 16];
            let _ = self.region.read(offset + 16 * at as u64, &mut bytes);
            let Some(state) = KeyState::from_bytes(&bytes) else {
                return Err(Violation(format!("key {key}: {bytes:02x?} is no state")));
            };
            check_presence(state.present, &allowed[at], key)?;
        }
        Ok(())
    }

    fn retrieved(
        &mut self,
        completion: Completion,
        allowed: &[Version],
        key: u32,
        room: u32,
        offset: u64,
    ) -> Result<(), Violation> {
        let status = completion.status;
        self.check_rest(if status.is_success() { completion.dword0 } else { 0 }, room, offset)?;
        if status == Status::KEY_DOES_NOT_EXIST {
            return check_presence(false, allowed, key);
        }
        if status == Status::UNRECOVERED_ERROR && self.damage_expected {
            return Ok(());
        }
        expect(status, &[Status::SUCCESS], "Retrieve")?;
        let whole = completion.dword0;
        let mut bytes = vec![0; whole.min(room) as usize];
        let _ = self.region.read(offset, &mut bytes);
        let versions = allowed.iter().flatten();
        let matches = |version: &u32| {
            let value = self.value(key, *version);
            value.len() == whole as usize && bytes == value[..bytes.len()]
        };
        if versions.clone().any(matches) {
            return Ok(());
        }
        // Damage that the checksum tells the client of is a miss; damage that it does not tell of is a lie.
        let partial = bytes.len() < whole as usize;
        if self.damage_expected && (partial || checksum(&bytes) as u32 != completion.dword1) {
            self.corrupt += 1;
            return Ok(());
        }
        let names: Vec<_> = versions.collect();
        Err(Violation(format!("key {key}: {whole} bytes that are none of the versions {names:?}")))
    }
}

fn check_presence(present: bool, allowed: &[Version], key: u32) -> Result<(), Violation> {
    if allowed.iter().any(|version| version.is_some() == present) {
        return Ok(());
    }
    let what = if present { "is there but must not be" } else { "is lost" };
    Err(Violation(format!("key {key} {what}; possible versions {allowed:?}")))
}

fn expect(status: Status, expected: &[Status], command: &str) -> Result<(), Violation> {
    if expected.contains(&status) {
        return Ok(());
    }
    Err(Violation(format!("{command} ended with {status}")))
}
