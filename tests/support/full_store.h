#pragma once

#include "support/fault_store.h"

namespace isr::test {

/// A store that takes nothing more, so that what a publish has sealed stays on this host.
class FullStore : public FaultStore {
 public:
  using FaultStore::FaultStore;
  PutResult put_new(std::string_view, ByteView, std::stop_token) override {
    throw Error(ErrorKind::kIo, "the store is full");
  }
};

}  // namespace isr::test
