#include "image/uploader.h"

#include <fmt/format.h>

#include <algorithm>

namespace isr {

Uploader::Uploader(BlobStorePtr store, const UploadOptions& options, UploadCounters& counters)
    : store_(make_stoppable(std::move(store), options.stop)),
      counters_(counters),
      options_(options),
      most_under_way_(options.threads * 4UL),
      pool_(options.threads),
      on_stop_(options.stop, Interrupt{*this}) {}

void Uploader::interrupt() noexcept {
  {
    auto state = state_.lock();
    if (!state->failure) {
      state->failure = std::make_exception_ptr(Error(ErrorKind::kCancelled, "the upload was interrupted"));
    }
  }
  changed_.notify_all();
}

Uploader::~Uploader() {
  state_.lock()->stopping = true;
  changed_.notify_all();
}

/// With a limit, objects leave one after the other. Each waits until the earlier ones have used their share of time.
void Uploader::await_turn(std::size_t length) {
  if (options_.bytes_per_second == 0) return;
  using Seconds = std::chrono::duration<double>;
  const Seconds needed(static_cast<double>(length) / static_cast<double>(options_.bytes_per_second));
  auto state = state_.lock();
  const auto turn = std::max(Clock::now(), state->next);
  state->next = turn + std::chrono::duration_cast<Clock::duration>(needed);
  state.wait_for(changed_, turn - Clock::now(), [&] { return state->stopping || state->failure; });
  if (state->stopping || state->failure) throw Error(ErrorKind::kCancelled, "the upload was cancelled");
}

void Uploader::put(const Cid& cid, Bytes object, Presence presence) {
  const std::size_t length = object.size();
  auto shared = std::make_shared<Bytes>(std::move(object));
  put_later(
      cid, length, [shared] { return std::move(*shared); }, presence);
}

void Uploader::put_later(const Cid& cid, std::size_t length, std::function<Bytes()> load, Presence presence) {
  std::function<void()> task = [this, job = Job{cid, length, std::move(load), presence}] { run(job); };
  auto state = state_.lock();
  state.wait(changed_, [&] { return state->failure || state->under_way < most_under_way_; });
  if (state->failure) std::rethrow_exception(state->failure);
  pool_.submit(std::move(task));
  ++state->under_way;  // only now, because finish() waits for every counted one to end
}

/// An existing object may be the rest of an interrupted write; its length shows that.
void Uploader::send(const Job& job) {
  const std::string name = object_name(job.cid);
  bool exists = job.presence == Presence::kLikely && store_->stat(name) == job.length;
  if (!exists) {
    await_turn(job.length);
    exists = store_->put_new(name, job.load()) == PutResult::kExists;
    if (exists && store_->stat(name) != job.length) {
      throw Error(ErrorKind::kCorrupt, fmt::format("{} in {} is damaged", name, store_->describe()));
    }
  }
  ++counters_.objects;
  if (!exists) counters_.bytes += job.length;
}

void Uploader::run(const Job& job) {
  std::exception_ptr failure;
  if (!state_.lock()->failure) {
    try {
      send(job);
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
