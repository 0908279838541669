#include "arena_map.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <string>
#include <string_view>

#include "fragmentation_arena.h"
#include "machine.h"

namespace buoy::bench {
namespace {

using frames::FrameOwner;
using frames::PageState;
using frames::PageWord;

// 128 MiB: as many blocks as a screen shows with a cell of some pixels a page.
constexpr std::uint32_t kBlocks = 64;
constexpr std::uint32_t kReserveBlocks = 8;
constexpr unsigned kBalloonMiB = 6;
constexpr double kFramesInMiB = 256;
constexpr std::array<unsigned, 3> kOrders = {3, 4, 9};

// A letter a page; arena_map_page() knows them.
char letter_of(PageWord word, bool in_reserve) {
  if (word.state() == PageState::kCached) return 'h';
  if (word.state() != PageState::kAllocated) return in_reserve ? 'r' : 'f';
  switch (word.owner()) {
    case FrameOwner::kZpool:
      return 'z';
    case FrameOwner::kContiguous:
      return 'c';
    case FrameOwner::kBalloon:
      return 'b';
    default:
      return 'd';
  }
}

struct Picture {
  std::string pages;  // "12z3f...": how many of which letter, from the arena's first page on
  double taken_mib = 0;
  double used_mib = 0;
  double lost_mib = 0;
  unsigned blocks_absent = 0;
  unsigned blocks_whole = 0;
  std::array<double, kOrders.size()> useless_mib{};  // free, in runs too short for the order
};

Picture take_picture(ChurnedArena& churned) {
  frames::Arena& arena = churned.arena();
  Picture p;
  char letter = 0;
  std::uint32_t count = 0;
  const auto flush = [&] {
    if (count > 0) p.pages += fmt::format("{}{}", count, letter);
    count = 0;
  };
  const auto add = [&](char next, std::uint32_t n) {
    if (next != letter) flush();
    letter = next;
    count += n;
  };
  for (std::uint32_t b = 0; b < kBlocks; ++b) {
    if (arena.blocks().availability_of(b) == frames::Pageblocks::Availability::kAbsent) {
      add('w', kPagesPerBlock);
      ++p.blocks_absent;
      continue;
    }
    for (std::uint32_t f = 0; f < kPagesPerBlock;) {
      const Pfn head(b * static_cast<std::uint32_t>(kPagesPerBlock) + f);
      const PageWord w = arena.page(head).load();
      const auto n = w.state() == PageState::kTail
                         ? 1U
                         : static_cast<std::uint32_t>(w.order().pages().value());
      add(letter_of(w, b < kReserveBlocks), n);
      f += n;
    }
  }
  flush();
  const frames::ArenaStats s = arena.stats();
  p.taken_mib = static_cast<double>(s.taken.value()) / kFramesInMiB;
  p.used_mib = static_cast<double>((s.allocated - arena.balloon().pages()).value()) / kFramesInMiB;
  p.lost_mib = static_cast<double>(churned.lost_frames()) / kFramesInMiB;
  p.blocks_whole = s.whole_free_blocks;
  for (std::size_t i = 0; i < kOrders.size(); ++i)
    p.useless_mib[i] = static_cast<double>(s.free.value() + s.cached.value()) / kFramesInMiB *
                       arena.compactor().fragmentation_score(Order(kOrders[i])) / 100;
  return p;
}

constexpr std::string_view kHead = R"html(<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>Buoy: an arena before and after compaction</title>
<style>
:root{--bg:#fbfbfa;--ink:#1c2024;--dim:#61676f;--line:#d6d9de;--card:#fff;--free:#dfe3e8;--balloon:#4a4f59;--whole:#fff;
--zpool:#1f77b4;--driver:#e08a1e;--contiguous:#a3479b;--reserve:#8fd0ae;--cached:#f2d52c;--edge:#8a929c;--mark:#0b8a5a}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--ink:#e9ebee;--dim:#9aa2ac;--line:#343a42;--card:#1b1f25;
--free:#3b424c;--balloon:#c3c9d2;--whole:#16191e;--zpool:#4f9fdb;--driver:#eda13f;--contiguous:#c977c0;--reserve:#3f7f62;
--cached:#f2d52c;--edge:#6d7681;--mark:#4cc795}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1240px;margin:0 auto;padding:20px 16px 40px}
h1{font-size:1.45rem;line-height:1.25;margin:0 0 4px}
p{margin:0 0 14px;color:var(--dim);max-width:72ch}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px}
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:2px 12px;margin-bottom:8px}
figcaption b{font-size:1.05rem}figcaption span{color:var(--dim);font-variant-numeric:tabular-nums}
canvas{display:block;width:100%;touch-action:pan-y;cursor:crosshair}
#at{min-height:1.6em;margin:10px 2px;color:var(--dim);font-variant-numeric:tabular-nums}
.under{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,360px),1fr));gap:16px;margin-top:4px}
table{width:100%;border-collapse:collapse;background:var(--card);border:1px solid var(--line);border-radius:10px;
overflow:hidden;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:4px 2px}
th,td{padding:5px 10px;text-align:right;border-top:1px solid var(--line);font-weight:400}
thead th{border-top:0;color:var(--dim)}
th:first-child{text-align:left}
i{display:inline-block;width:.85em;height:.85em;border-radius:2px;margin-right:.5em;vertical-align:-.08em;
border:1px solid var(--line)}
</style></head><body><main>
)html";

constexpr std::string_view kScript = R"html(
<script>
'use strict';
const KINDS={z:['zpool','compressed pool'],d:['driver','driver buffers'],c:['contiguous','contiguous memory'],
h:['cached','cached per CPU'],f:['free','free'],r:['reserve','reserve, free'],b:['balloon','balloon: given back in between'],w:['whole','blocks given back whole']};
const PER=512,BW=32,BH=16;
const unpack=t=>{const out=[];for(const m of t.matchAll(/(\d+)([a-z])/g))for(let n=+m[1];n>0;--n)out.push(m[2]);return out;};
const maps=['before','after'].map(id=>({canvas:document.getElementById(id),pages:unpack(DATA[id])}));
const css=name=>getComputedStyle(document.documentElement).getPropertyValue('--'+name).trim();
const mib=n=>(n/256).toFixed(1)+' MiB';

function layout(m){
  const width=m.canvas.clientWidth,blocks=m.pages.length/PER;
  // As many blocks beside one another as leave cells of two pixels.
  const gap=4,columns=[8,4].find(n=>width>=n*(BW*1.9+2+gap))||2;
  const tile=(width-gap*(columns-1))/columns,cell=(tile-2)/BW;
  const height=cell*BH+2,rows=Math.ceil(blocks/columns);
  return {width,blocks,columns,gap,tile,cell,height,rows,full:rows*(height+gap)-gap};
}
function draw(m){
  const l=m.layout=layout(m),ratio=window.devicePixelRatio||1,c=m.canvas;
  c.style.height=l.full+'px';c.width=Math.round(l.width*ratio);c.height=Math.round(l.full*ratio);
  const g=c.getContext('2d'),colour={};
  for(const k in KINDS)colour[k]=css(KINDS[k][0]);
  const px=v=>Math.round(v*ratio);
  for(let b=0;b<l.blocks;++b){
    const x=(b%l.columns)*(l.tile+l.gap),y=Math.floor(b/l.columns)*(l.height+l.gap);
    for(let p=0;p<PER;++p){
      const cx=x+1+(p%BW)*l.cell,cy=y+1+Math.floor(p/BW)*l.cell,left=px(cx),top=px(cy);
      g.fillStyle=colour[m.pages[b*PER+p]];
      g.fillRect(left,top,px(cx+l.cell)-left,px(cy+l.cell)-top);
    }
    const reserve=b<RESERVE,line=Math.max(1,Math.round(ratio*(reserve?2:1)));
    g.strokeStyle=css(reserve?'mark':'edge');g.lineWidth=line;
    g.strokeRect(px(x)+line/2,px(y)+line/2,px(x+l.tile)-px(x)-line,px(y+l.height)-px(y)-line);
  }
}
function tell(m,event){
  const box=m.canvas.getBoundingClientRect(),l=m.layout,x=event.clientX-box.left,y=event.clientY-box.top;
  const column=Math.floor(x/(l.tile+l.gap)),row=Math.floor(y/(l.height+l.gap)),b=row*l.columns+column;
  if(column>=l.columns||b<0||b>=l.blocks)return;
  const i=Math.min(BW-1,Math.max(0,Math.floor((x-column*(l.tile+l.gap)-1)/l.cell)));
  const j=Math.min(BH-1,Math.max(0,Math.floor((y-row*(l.height+l.gap)-1)/l.cell)));
  const counts={};
  for(const k of m.pages.slice(b*PER,b*PER+PER))counts[k]=(counts[k]||0)+1;
  const all=Object.entries(counts).sort((a,b)=>b[1]-a[1]).map(([k,n])=>n+' '+KINDS[k][1]).join(', ');
  document.getElementById('at').textContent=(b<RESERVE?'Reserve block ':'Block ')+b+', page '+(j*BW+i)+': '+
    KINDS[m.pages[b*PER+j*BW+i]][1]+'. In the block: '+all+'.';
}
const legend=document.getElementById('legend');
for(const k in KINDS){
  const row=legend.insertRow(),head=document.createElement('th'),dot=document.createElement('i');
  dot.style.background='var(--'+KINDS[k][0]+')';head.append(dot,KINDS[k][1]);row.append(head);
  for(const m of maps)row.insertCell().textContent=mib(m.pages.filter(p=>p===k).length);
}
const drawAll=()=>maps.forEach(draw);
for(const m of maps){m.canvas.addEventListener('pointermove',e=>tell(m,e));m.canvas.addEventListener('pointerdown',e=>tell(m,e));}
window.addEventListener('resize',drawAll);
matchMedia('(prefers-color-scheme:dark)').addEventListener('change',drawAll);
drawAll();
</script>
</main></body></html>
)html";

std::string figure(const char* id, const char* title, const Picture& p) {
  return fmt::format(
      R"(<figure><figcaption><b>{}</b><span>{:.0f} MiB taken for {:.1f} MiB in use</span></figcaption>
<canvas id="{}" role="img" aria-label="the arena {}: a cell a page, coloured by kind"></canvas></figure>
)",
      title, p.taken_mib, p.used_mib, id, title);
}

std::string row(const std::string& what, const std::string& before, const std::string& after) {
  return fmt::format("<tr><th>{}</th><td>{}</td><td>{}</td></tr>\n", what, before, after);
}

struct Move {
  double pages = 0;
  double seconds = 0;
};

std::string arena_map_page(const Picture& before, const Picture& after, const Move& move) {
  std::string page(kHead);
  const auto mib = [](double n) { return fmt::format("{:.1f} MiB", n); };
  page += fmt::format(
      R"(<h1>An arena before and after compaction</h1>
<p>{} MiB in pageblocks of 2 MiB, a cell a page of 4 KiB. Compressed objects and a driver's buffers came
and went, and in the end half of the arena was in use. Compaction moved {:.0f} pages in {:.1f} ms ({:.2f} &micro;s a page) and gave
{:.0f} MiB back as whole huge pages. Blocks with a green border are the reserve, which movable pages borrow.</p>
)",
      kBlocks * 2, move.pages, move.seconds * 1e3, move.seconds * 1e6 / move.pages,
      before.taken_mib - after.taken_mib);
  page += "<div class=\"maps\">\n" + figure("before", "Before", before) +
          figure("after", "After", after) + "</div>\n";
  page += R"(<div id="at">Point at a page to see what it is.</div>
<div class="under"><div><table><caption>Kinds of pages</caption>
<thead><tr><th></th><th>before</th><th>after</th></tr></thead><tbody id="legend"></tbody></table></div>
<div><table><caption>Numbers</caption>
<thead><tr><th></th><th>before</th><th>after</th></tr></thead><tbody>
)";
  const double budget = kBlocks * 2;
  const auto lost = [&](const Picture& p) {
    return fmt::format("{:.1f} MiB, {:.1f} %", p.lost_mib, 100 * p.lost_mib / budget);
  };
  const auto number = [](unsigned n) { return std::to_string(n); };
  page += row("taken from the budget", mib(before.taken_mib), mib(after.taken_mib));
  page += row("in use", mib(before.used_mib), mib(after.used_mib));
  page += row("lost in half-empty blocks", lost(before), lost(after));
  page += row("blocks given back whole", number(before.blocks_absent), number(after.blocks_absent));
  page += row("whole blocks kept free", number(before.blocks_whole), number(after.blocks_whole));
  for (std::size_t i = 0; i < kOrders.size(); ++i)
    page += row(fmt::format("free, too short for order {}", kOrders[i]), mib(before.useless_mib[i]),
                mib(after.useless_mib[i]));
  page += "</tbody></table></div></div>\n";
  page += fmt::format("<script>const RESERVE={},DATA={{before:'{}',after:'{}'}};</script>",
                      kReserveBlocks, before.pages, after.pages);
  page += kScript;
  return page;
}

void replace_contents(std::FILE* file, const std::string& text) {
  // A pipe or a device has nothing to cut off.
  (void)ftruncate(fileno(file), 0);
  if (std::fwrite(text.data(), 1, text.size(), file) != text.size() || std::fflush(file) != 0)
    throw UnusableOutput(because_errno("--map"));
}

}  // namespace

void draw_arena_map(std::FILE* file) {
  ChurnedArena::Shape shape;
  shape.blocks = kBlocks;
  shape.reserve_blocks = kReserveBlocks;
  shape.compacts_in_background = false;
  shape.driver_part = 0.3;
  ChurnedArena churned(shape);
  churned.churn(0.75, 4);
  frames::Arena& arena = churned.arena();
  // Some of what stays: a buffer out of the reserve, two from elsewhere.
  std::array<Pfn, 3> buffers;
  constexpr std::array<unsigned, 3> kMiB = {4, 2, 3};
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    frames::ContiguousRequest request;
    request.count = PageCount(kMiB[i] * std::uint64_t{256});
    request.area = i == 0 ? frames::Area::kReserve : frames::Area::kGeneral;
    buffers[i] = arena.contiguous().try_allocate(request).head;
  }
  churned.drop_to(0.5);
  // What a smaller budget made the arena give back where no block could be emptied yet.
  (void)arena.balloon().inflate(PageCount(kBalloonMiB * std::uint64_t{256}));
  const Picture before = take_picture(churned);
  const std::uint64_t moved_before = churned.counters().read(Event::pgmigrate_success);
  const auto start = std::chrono::steady_clock::now();
  (void)arena.compactor().compact(frames::CompactionEffort::thorough(frames::Callers::kUser));
  Move move;
  move.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  move.pages =
      static_cast<double>(churned.counters().read(Event::pgmigrate_success) - moved_before);
  const Picture after = take_picture(churned);
  for (const Pfn buffer : buffers)
    if (!buffer.is_none()) (void)arena.contiguous().try_free(buffer);
  replace_contents(file, arena_map_page(before, after, move));
}

}  // namespace buoy::bench
