// One state, shown in three ways. Except for SIGUSR1 no thread prints by itself: update() is called often while there
// is progress, and while there is none, a log does not need repeated lines.
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/sizes.h"
#include "base/sync.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "host/config.h"

namespace isr {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPlainPeriod{30};
constexpr std::size_t kBarWidth = 26;

enum class Form { kNone, kBar, kPlain, kJson };

Form choose_form(const std::string& flag, bool json, bool quiet) {
  if (flag == "none" || (quiet && flag == "auto")) return Form::kNone;
  if (flag == "json" || (json && flag == "auto")) return Form::kJson;
  const char* terminal = std::getenv("TERM");  // NOLINT(concurrency-mt-unsafe): nothing sets it
  const bool movable = terminal != nullptr && std::string_view(terminal) != "dumb" && ::isatty(STDERR_FILENO) == 1;
  if (flag == "plain" || (flag == "auto" && !movable)) return Form::kPlain;
  return movable ? Form::kBar : Form::kPlain;
}

std::chrono::milliseconds frame_period() {
  const char* text = std::getenv("ISR_PROGRESS_FPS");  // NOLINT(concurrency-mt-unsafe): nothing sets it
  const long fps = text == nullptr ? 10 : std::strtol(text, nullptr, 10);
  return std::chrono::milliseconds(1000 / std::clamp(fps, 1L, 60L));
}

std::size_t terminal_width() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return 80;
  return size.ws_col;
}

void write_stderr(const std::string& text) {
  const ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
  static_cast<void>(ignored);  // the output is gone: go on working
}

/// "1.1 / 1.6 GiB  71%", or the part of it that is known.
std::string amounts(std::uint64_t done, std::uint64_t total) {
  if (total == 0) return done == 0 ? "" : format_size(done);
  const auto percent =
      static_cast<unsigned>(static_cast<double>(std::min(done, total)) * 100 / static_cast<double>(total));
  return fmt::format("{} / {}  {}%", format_size(done), format_size(total), percent);
}

std::string bar(std::uint64_t done, std::uint64_t total) {
  if (total == 0) return "";
  const auto filled =
      static_cast<std::size_t>(static_cast<double>(std::min(done, total)) * kBarWidth / static_cast<double>(total));
  return fmt::format("[{}{}]", std::string(filled, '#'), std::string(kBarWidth - filled, '-'));
}

}  // namespace

struct Progress::Impl {
  struct State {
    std::string step;
    Clock::time_point shown{};
    Clock::time_point step_began{};
    std::uint64_t step_first = 0;  ///< `done` at the begin of the step: a rerun does not start at 0
    std::uint64_t done = 0;
    std::uint64_t total = 0;
    bool news = false;  ///< there is progress that was not shown yet
    bool live = false;  ///< a line without its end is on the terminal
  };
  const Output* out = nullptr;
  std::string title;
  Form form = Form::kNone;
  std::chrono::milliseconds period{100};
  Sync<State> state;

  void show(State& s, Form how) const;
  void erase(State& s) const;
};

void Progress::Impl::show(State& s, Form how) const {
  s.news = false;
  if (how == Form::kJson) {
    out->document({{"type", "progress"}, {"step", s.step}, {"done", s.done}, {"total", s.total}});
    return;
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - s.step_began).count();
  std::string rate;
  if (seconds > 0.5 && s.done > s.step_first) {
    rate = fmt::format("  {}/s",
                       format_size(static_cast<std::uint64_t>(static_cast<double>(s.done - s.step_first) / seconds)));
  }
  const std::string text = printable(fmt::format("{}: {}", title, s.step));
  if (how == Form::kPlain) {
    write_stderr(fmt::format("{}  {}{}\n", text, amounts(s.done, s.total), rate));
    return;
  }
  std::string line = fmt::format("{}  {}  {}{}", text, bar(s.done, s.total), amounts(s.done, s.total), rate);
  const std::size_t width = terminal_width() - 1;
  if (line.size() > width) line.resize(width);
  write_stderr("\r" + line + "\x1b[K");
  s.live = true;
}

void Progress::Impl::erase(State& s) const {
  if (!s.live) return;
  write_stderr("\r\x1b[K");
  s.live = false;
}

Progress::Progress(const Output& out, std::string title) : impl_(std::make_unique<Impl>()) {
  impl_->out = &out;
  impl_->title = std::move(title);
  impl_->form = choose_form(out.progress_, out.json_, out.quiet_);
  impl_->period = impl_->form == Form::kPlain ? std::chrono::milliseconds(kPlainPeriod) : frame_period();
  answer_status_requests([this] {
    auto state = impl_->state.lock();
    impl_->erase(*state);
    impl_->show(*state, impl_->form == Form::kJson ? Form::kJson : Form::kPlain);
  });
}

Progress::~Progress() {
  answer_status_requests(nullptr);
  auto state = impl_->state.lock();
  if (impl_->form == Form::kPlain && state->news) impl_->show(*state, impl_->form);
  impl_->erase(*state);
}

void Progress::update(std::string_view step, std::uint64_t done, std::uint64_t total) {
  auto state = impl_->state.lock();
  const auto now = Clock::now();
  const bool another = state->step != step;
  state->news = state->news || another || done != state->done || total != state->total;
  state->done = done;
  state->total = total;
  if (another) {
    state->step = std::string(step);
    state->step_began = now;
    state->step_first = done;
  } else if (now - state->shown < impl_->period) {
    return;
  }
  state->shown = now;
  if (impl_->form != Form::kNone) impl_->show(*state, impl_->form);
}

void Progress::clear() {
  auto state = impl_->state.lock();
  impl_->erase(*state);
}

}  // namespace isr
