#include "image/uploader.h"

#include <fmt/format.h>

namespace isr {

Uploader::Uploader(BlobStorePtr store, unsigned threads, UploadCounters& counters)
    : store_(std::move(store)), counters_(counters), most_under_way_(threads * 4UL), pool_(threads) {}

Uploader::~Uploader() = default;

void Uploader::put(const Cid& cid, Bytes object) {
  auto shared = std::make_shared<Bytes>(std::move(object));
  put_later(cid, [shared] { return std::move(*shared); });
}

void Uploader::put_later(const Cid& cid, std::function<Bytes()> load) {
  {
    auto state = state_.lock();
    state.wait(changed_, [&] { return state->failure || state->under_way < most_under_way_; });
    if (state->failure) std::rethrow_exception(state->failure);
    ++state->under_way;
  }
  pool_.submit([this, cid, load = std::move(load)] { run(cid, load); });
}

/// What exists may be what an interrupted writer left: its length tells.
void Uploader::put_new(const Cid& cid, ByteView object) {
  const std::string name = object_name(cid);
  if (store_->put_new(name, object) == PutResult::kCreated) return;
  if (store_->stat(name) != object.size()) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{} in {} is damaged", name, store_->describe()));
  }
  ++counters_.existed;
}

void Uploader::run(const Cid& cid, const std::function<Bytes()>& load) {
  std::exception_ptr failure;
  if (!state_.lock()->failure) {
    try {
      const Bytes object = load();
      put_new(cid, object);
      ++counters_.objects;
      counters_.bytes += object.size();
    } catch (...) {
      failure = std::current_exception();
    }
  }
  auto state = state_.lock();
  if (failure && !state->failure) state->failure = failure;
  --state->under_way;
  changed_.notify_all();
}

void Uploader::finish() {
  auto state = state_.lock();
  state.wait(changed_, [&] { return state->under_way == 0; });
  if (state->failure) std::rethrow_exception(state->failure);
}

}  // namespace isr
