mod admission;
mod device;
mod ends;
mod memory;
mod world;
