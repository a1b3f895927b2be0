use super::*;
use crate::nvme::conformance;

#[test]
fn conforms() {
    conformance::check(|depth, slots| NullDevice::new(4096).queue(depth, slots), conformance::Keeps::Nothing);
}
