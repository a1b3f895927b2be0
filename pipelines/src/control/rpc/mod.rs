//! JSON-RPC 2.0 on a unix socket, as SPDK speaks it.
//!
//! Every method is declared once ([`Method`]): the declaration checks a request's parameters, and writes the
//! documentation, the schema and so the command line's help.

mod arguments;
mod declaration;
mod dispatch;
mod document;
mod fault;
mod framer;
mod fuzz;
mod methods;
mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use arguments::Arguments;
pub use declaration::{Action, Kind, Method, Param, Phase};
pub use dispatch::{call, check};
pub use document::{markdown, schema};
pub use fault::Fault;
pub use framer::MAX_REQUEST_BYTES;
#[doc(hidden)]
pub use fuzz::fuzz_stream;
pub use methods::{all_methods, find_method};
pub use server::{MAX_CONNECTIONS, Server};
pub use socket::{RpcSocket, SocketError};
