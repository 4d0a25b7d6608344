#include "chunkstore/use_times.h"

#include "base/error.h"
#include "base/log.h"

namespace isr {
namespace {

constexpr std::size_t kBatch = 1024;

}  // namespace

void UseTimes::note(const Cid& cid, std::int64_t time) {
  auto state = state_.lock();
  state->noted[cid] = time;
  if (state->noted.size() < kBatch || state->is_writing) return;
  try {
    if (!state->thread) state->thread.emplace(1);
    state->thread->submit([this] { write_noted(); });
    state->is_writing = true;
  } catch (const std::exception& error) {  // no thread to be had now
    log::debug("{}: {}", index_file_.string(), error.what());
    state->noted.clear();
  }
}

void UseTimes::commit() {
  {
    auto state = state_.lock();
    state.wait(written_, [&] { return !state->is_writing; });
    if (state->noted.empty()) return;
    state->is_writing = true;
  }
  write_noted();
}

void UseTimes::write_noted() {
  Times times;
  times.swap(state_.lock()->noted);
  write(times);
  state_.lock()->is_writing = false;
  written_.notify_all();
}

void UseTimes::write(const Times& times) {
  try {
    if (index_ && index_->replaced()) index_.reset();
    if (!index_) {
      if (!fs::exists(index_file_)) return;  // to make one is not our business
      index_ = std::make_unique<PackIndex>(index_file_, Durability::kRebuildable);
    }
    std::vector<PackIndex::Touch> touched;
    touched.reserve(times.size());
    for (const auto& [cid, time] : times) touched.push_back({cid, time});
    index_->touch(touched);
  } catch (const std::exception& error) {
    log::debug("{}: {}", index_file_.string(), error.what());
    index_.reset();
  }
}

}  // namespace isr
