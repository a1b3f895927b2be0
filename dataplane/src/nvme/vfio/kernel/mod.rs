//! Access to a PCI function by the kernel's VFIO.
