//! The store against a device that loses power, and a model of what may then be left.

mod basics;
mod device;
mod drafts;
mod faults;
mod full;
mod gone;
mod model;
mod order;
mod overwrite;
mod speed;
mod stalls;
mod unreadable;
mod world;
