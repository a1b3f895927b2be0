//! The driver against the model.

mod conforms;
