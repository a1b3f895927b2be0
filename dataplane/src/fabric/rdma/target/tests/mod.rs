mod admission;
mod data;
mod device;
mod ends;
mod memory;
mod world;
