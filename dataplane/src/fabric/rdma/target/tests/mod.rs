mod admission;
mod device;
mod world;
