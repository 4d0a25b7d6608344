#pragma once

#include <deque>
#include <functional>

#include "base/sync.h"
#include "repository/blob_store.h"

namespace isr::test {

enum class Fault {
  kNone,
  kBefore,  ///< the request never arrives: kTransient
  kAfter,   ///< the request is carried out, but the answer is lost: kTransient
  kDenied,  ///< the request is refused: no retry helps
};

/// A wrapper around a store that fails as the script says: call number k meets
/// faults[k]; calls beyond the script succeed.
class FaultStore : public BlobStore {
 public:
  explicit FaultStore(BlobStorePtr inner, std::vector<Fault> faults = {})
      : BlobStore("faulty " + inner->describe(), inner->writable()), inner_(std::move(inner)) {
    script(std::move(faults));
  }

  void script(std::vector<Fault> faults) { state_.lock()->faults.assign(faults.begin(), faults.end()); }
  std::size_t calls() const { return state_.lock()->calls; }
  /// Runs once between a lost answer and the next call, so that a test can act as another host.
  void set_interlude(std::function<void()> interlude) { state_.lock()->interlude = std::move(interlude); }

  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range = {},
                          std::stop_token stop = {}) override {
    return call([&] { return inner_->get(name, range, stop); });
  }
  std::optional<std::uint64_t> stat(std::string_view name, std::stop_token stop = {}) override {
    return call([&] { return inner_->stat(name, stop); });
  }
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop = {}) override {
    return call([&] { return inner_->put_new(name, bytes, stop); });
  }
  void put_hint(std::string_view name, ByteView bytes, std::stop_token stop = {}) override {
    call([&] {
      inner_->put_hint(name, bytes, stop);
      return 0;
    });
  }
  std::optional<ListPage> list_page(std::string_view prefix, std::string_view after = {},
                                    std::stop_token stop = {}) override {
    return call([&] { return inner_->list_page(prefix, after, stop); });
  }
  bool remove(std::string_view name) override {
    return call([&] { return inner_->remove(name); });
  }

 private:
  struct State {
    std::deque<Fault> faults;
    std::size_t calls = 0;
    std::function<void()> interlude;
  };

  Fault next_fault() {
    auto state = state_.lock();
    ++state->calls;
    if (state->faults.empty()) return Fault::kNone;
    const Fault fault = state->faults.front();
    state->faults.pop_front();
    return fault;
  }

  void lose_answer() {
    std::function<void()> interlude;
    std::swap(interlude, state_.lock()->interlude);
    if (interlude) interlude();
    throw Error(ErrorKind::kTransient, "no answer");
  }

  template <class Request>
  std::invoke_result_t<Request> call(Request request) {
    const Fault fault = next_fault();
    if (fault == Fault::kDenied) throw Error(ErrorKind::kDenied, "refused");
    if (fault == Fault::kBefore) lose_answer();
    auto answer = request();
    if (fault == Fault::kAfter) lose_answer();
    return answer;
  }

  BlobStorePtr inner_;
  Sync<State> state_;
};

}  // namespace isr::test
