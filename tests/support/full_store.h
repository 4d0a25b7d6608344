#pragma once

#include "support/fault_store.h"

namespace isr::test {

/// A store that accepts no new blobs, so that the objects sealed by a publish stay on this host.
class FullStore : public FaultStore {
 public:
  using FaultStore::FaultStore;
  PutResult put_new(std::string_view, ByteView, std::stop_token) override {
    throw Error(ErrorKind::kIo, "the store is full");
  }
};

}  // namespace isr::test
