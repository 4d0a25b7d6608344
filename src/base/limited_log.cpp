// The sink finds its file through the descriptor, so other writers (such as the C++ runtime's last message) reach the
// same file. Several processes may write to one file. The first that finds it full renames it; the others, whose
// descriptor is then FILE.1, open the new file.

#include "base/limited_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <mutex>

#include "base/file.h"

namespace isr {
namespace {

constexpr std::size_t kRemembered = 64;  // lines whose repetition is noticed
constexpr std::string_view kOld = ".1";

bool same_file(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

/// False when it cannot be done, for example because the directory is gone.
bool begin_new_file(int fd, const struct stat& full) {
  std::error_code failure;
  std::string name = fs::read_symlink(fmt::format("/proc/self/fd/{}", fd), failure).string();
  if (failure) return false;
  if (name.ends_with(kOld)) name.resize(name.size() - kOld.size());
  struct stat named {};
  if (::stat(name.c_str(), &named) != 0) return false;
  if (same_file(named, full) && ::rename(name.c_str(), (name + std::string(kOld)).c_str()) != 0) return false;
  const UniqueFd fresh(::open(name.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  return fresh && ::dup2(fresh.get(), fd) >= 0;
}

class LimitedSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  LimitedSink(int fd, const LogLimits& limits)
      : fd_(fd), limits_(limits), throttle_(limits, std::chrono::steady_clock::now()) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string_view text(message.payload.data(), message.payload.size());
    const auto ruling = throttle_.rule(text, std::chrono::steady_clock::now());
    if (!ruling.write) return;
    bound_file();
    if (ruling.left_out > 0)
      put(message, fmt::format("{} lines were left out here, because there were too many", ruling.left_out));
    put(message, text.size() <= limits_.line_bytes ? std::string(text)
                                                   : fmt::format("{}...", text.substr(0, limits_.line_bytes)));
    if (ruling.repeated > 0)
      put(message, fmt::format("the line above was repeated {} more times before", ruling.repeated));
  }
  void flush_() override {}

  void put(const spdlog::details::log_msg& message, const std::string& text) {
    spdlog::details::log_msg line = message;
    line.payload = text;
    spdlog::memory_buf_t formatted;
    formatter_->format(line, formatted);
    [[maybe_unused]] const ssize_t written = ::write(fd_, formatted.data(), formatted.size());
  }

  void bound_file() const {
    struct stat info {};
    if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) return;
    if (static_cast<std::uint64_t>(info.st_size) < limits_.file_bytes || begin_new_file(fd_, info)) return;
    [[maybe_unused]] const int cut = ::ftruncate(fd_, 0);
  }

  int fd_;
  LogLimits limits_;
  LogThrottle throttle_;
};

}  // namespace

void LogThrottle::forget_oldest() {
  const auto oldest = std::min_element(
      seen_.begin(), seen_.end(), [](const auto& a, const auto& b) { return a.second.written < b.second.written; });
  left_out_ += oldest->second.held_back;
  seen_.erase(oldest);
}

LogThrottle::Ruling LogThrottle::rule(std::string_view line, Time now) {
  const std::size_t key = std::hash<std::string_view>()(line);
  const auto seen = seen_.find(key);
  if (seen != seen_.end() && now - seen->second.written < limits_.repeat_after) {
    ++seen->second.held_back;
    return {};
  }
  const double passed = std::chrono::duration<double>(now - counted_).count();
  allowance_ = std::min(limits_.burst_lines, allowance_ + passed * limits_.lines_per_second);
  counted_ = now;
  if (allowance_ < 1) {
    ++left_out_;
    return {};
  }
  allowance_ -= 1;
  const std::uint64_t repeated = seen == seen_.end() ? 0 : seen->second.held_back;
  if (seen == seen_.end() && seen_.size() >= kRemembered) forget_oldest();
  seen_[key] = {now, 0};
  return {true, repeated, std::exchange(left_out_, 0)};
}

std::shared_ptr<spdlog::sinks::sink> make_limited_sink(int fd, const LogLimits& limits) {
  return std::make_shared<LimitedSink>(fd, limits);
}

}  // namespace isr
