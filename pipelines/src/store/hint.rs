//! Which writes belong together on the device.
//!
//! Values of the cache class go when their segment is the oldest; what was moved on has proven to live longer, and durable
//! values are never evicted. Pages of records are written over as drafts before they are full.

use dataplane::nvme::WriteHint;

use super::publish::Class;

/// Values that eviction moved on. Most of what is written, and what is left of it, come first, for a device may tell only
/// a few kinds apart.
pub(crate) const MOVED: WriteHint = WriteHint::kind(2);
/// Headers and pages of records.
pub(crate) const METADATA: WriteHint = WriteHint::kind(3);

/// Values of a class.
#[inline]
pub(crate) const fn of_class(class: Class) -> WriteHint {
    match class {
        Class::Cache => WriteHint::kind(1),
        Class::Durable => WriteHint::kind(4),
    }
}
