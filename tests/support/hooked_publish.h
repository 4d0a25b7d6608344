#pragma once

#include <functional>

#include "support/fault_store.h"

namespace isr::test {

/// Calls a hook after a new head has been put.
class HookedPublish : public test::FaultStore {
 public:
  HookedPublish(BlobStorePtr inner, std::function<void()> hook)
      : FaultStore(std::move(inner)), hook_(std::move(hook)) {}
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    const PutResult result = FaultStore::put_new(name, bytes, stop);
    const bool is_new_head = name.find("/heads/") != std::string_view::npos && result == PutResult::kCreated;
    if (is_new_head) hook_();  // skip a head that is put again to make it durable
    return result;
  }

 private:
  std::function<void()> hook_;
};

}  // namespace isr::test
