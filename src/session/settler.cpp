#include "session/settler.h"

#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sleep.h"

namespace isr {
namespace {

constexpr std::uint64_t kSweepAfter = 256;  // chunks, of 128 KiB each before they are compressed
constexpr std::chrono::seconds kSweepAgain{2};
constexpr std::uint64_t kCollectAbove = 256U << 20U;  // bytes of a journal
constexpr auto kTidyEvery = std::chrono::seconds(1);
constexpr int kSettleNice = 10;
constexpr std::chrono::milliseconds kSettlePeriod{200};

}  // namespace

void Settler::settle_if_due(const std::stop_token& stop) {
  // The guest's writes fill the disk, too, and the cache notices this only when an object is put into it.
  const auto now = std::chrono::steady_clock::now();
  if (now - tidied_ > kTidyEvery) {
    tidied_ = now;
    objects_.cache().make_room(0);
  }
  sweep();
  Journal& journal = images_.journal();
  // collect() costs no more than a sync, so it need not wait until the guest is calm or the limit is near.
  if (journal.size_bytes() > kCollectAbove) journal.collect();
  std::uint64_t written = 0;
  for (const SessionPart& part : images_.parts()) written += part.image->counters().written_bytes;
  if (!policy_.is_due(journal.size_bytes(), written, std::chrono::steady_clock::now())) return;
  std::vector<SettleImage> images;
  for (const SessionPart& part : images_.parts()) images.push_back({*part.overlay, part.image});
  SealContext context = objects_.seal_context();
  context.threads = 1;  // leaves the other processors to the guest
  context.stop = stop;
  if (policy_.is_large(journal.size_bytes())) {
    context.reader = objects_.shared_reader();  // the journal must not grow without limit, so the rest is fetched
  } else {
    context.settle_little = false;
  }
  try {
    if (settle_some(context, journal, images) > 0) return;
  } catch (const Error&) {
    if (!stop.stop_requested()) policy_.gained_nothing(std::chrono::steady_clock::now());
    throw;
  }
  policy_.gained_nothing(std::chrono::steady_clock::now());
}

/// Sweeps only after many changes, because a sweep looks at all settled objects.
void Settler::sweep() {
  std::uint64_t superseded = 0;
  for (const SessionPart& part : images_.parts()) superseded += part.overlay->superseded();
  const auto now = std::chrono::steady_clock::now();
  const bool has_more = objects_.sweep().has_more() && now - swept_at_ > kSweepAgain;
  if (superseded - swept_ < kSweepAfter && !has_more) return;
  swept_ = superseded;
  swept_at_ = now;
  images_.journal().sync();  // the records that replace the objects must be durable first
  objects_.sweep().sweep(objects_.settled(), images_.needed_objects());
}

namespace {

void settle_until(Settler& settler, const std::stop_token& stop) {
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kSettleNice);
  while (!stop.stop_requested()) {
    try {
      settler.settle_if_due(stop);
    } catch (const std::exception& error) {
      if (!stop.stop_requested()) log::warn("cannot settle now: {}", error.what());
    }
    sleep_unless_stopped(kSettlePeriod, stop);
  }
}

}  // namespace

void SettlingThread::start() {
  try {
    thread_ = std::jthread([this](const std::stop_token& stop) { settle_until(settler_, stop); });
  } catch (const std::system_error& error) {
    log::warn("nothing is settled during this publish: {}", error.what());
  }
}

}  // namespace isr
