package datastreamx;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.apache.flink.api.common.functions.RichMapFunction;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.functions.source.RichSourceFunction;
import org.apache.flink.util.Collector;

/**
 * The least state of every box on Flink: channel, last channel, last ad. Bytes in, bytes out, heap state, a checkpoint
 * to files each second. Arguments: file of events (one per line), share that is warm-up, folder of checkpoints.
 */
public final class State {
  private static volatile long startedNanos;
  private static volatile long startedCpuNanos;

  /** What the job reads of an event. */
  @JsonIgnoreProperties(ignoreUnknown = true)
  public static final class Event {
    public String box_id;
    public String type;
    public long event_time_ms;
    public String channel_id;
    public String ad_id;
  }

  /** What it keeps of a box. */
  public static final class Box {
    public String channel_id;
    public String last_channel_id;
    public String last_ad_id;
  }

  /** What it says of an event. */
  public static final class Fact {
    public String box_id;
    public String type;
    public long event_time_ms;
    public String channel_id;
    public String last_channel_id;
    public String last_ad_id;
  }

  /** All lines, from memory; not parallel. */
  public static final class Feed extends RichSourceFunction<byte[]> {
    private final String file;
    private final double warm;
    private volatile boolean running = true;

    Feed(String file, double warm) {
      this.file = file;
      this.warm = warm;
    }

    @Override
    public void run(SourceContext<byte[]> context) throws Exception {
      List<byte[]> lines = new ArrayList<>();
      try (var reader = Files.newBufferedReader(Path.of(file))) {
        for (String line = reader.readLine(); line != null; line = reader.readLine()) {
          lines.add(line.getBytes(StandardCharsets.UTF_8));
        }
      }
      int first = (int) (lines.size() * warm);
      for (int n = 0; n < lines.size() && running; n++) {
        if (n == first) {
          startedCpuNanos = cpuNanos();
          startedNanos = System.nanoTime();
        }
        synchronized (context.getCheckpointLock()) {
          context.collect(lines.get(n));
        }
      }
    }

    @Override
    public void cancel() {
      running = false;
    }
  }

  /** JSON to an event. */
  public static final class Decode extends RichMapFunction<byte[], Event> {
    private transient ObjectMapper mapper;

    @Override
    public Event map(byte[] value) throws Exception {
      if (mapper == null) {
        mapper = new ObjectMapper();
      }
      return mapper.readValue(value, Event.class);
    }
  }

  /** An event changes its box, and becomes a fact. */
  public static final class Enrich extends KeyedProcessFunction<String, Event, byte[]> {
    private transient ValueState<Box> boxes;
    private transient ObjectMapper mapper;

    @Override
    public void open(Configuration parameters) {
      boxes = getRuntimeContext().getState(new ValueStateDescriptor<>("box", Box.class));
      mapper = new ObjectMapper();
    }

    @Override
    public void processElement(Event event, Context context, Collector<byte[]> out) throws Exception {
      Box box = boxes.value();
      if (box == null) {
        box = new Box();
      }
      if (event.type.equals("tune")) {
        if (!event.channel_id.equals(box.channel_id)) {
          box.last_channel_id = box.channel_id;
          box.channel_id = event.channel_id;
        }
      } else if (event.type.equals("ad_shown")) {
        box.last_ad_id = event.ad_id;
      }
      boxes.update(box);
      Fact fact = new Fact();
      fact.box_id = event.box_id;
      fact.type = event.type;
      fact.event_time_ms = event.event_time_ms;
      fact.channel_id = box.channel_id;
      fact.last_channel_id = box.last_channel_id;
      fact.last_ad_id = box.last_ad_id;
      out.collect(mapper.writeValueAsBytes(fact));
    }
  }

  private static long cpuNanos() {
    var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    return system.getProcessCpuTime();
  }

  public static void main(String[] args) throws Exception {
    Configuration settings = new Configuration();
    settings.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, Path.of(args[2]).toUri().toString());
    settings.set(TaskManagerOptions.NETWORK_MEMORY_MAX, MemorySize.ofMebiBytes(256));
    var environment = StreamExecutionEnvironment.createLocalEnvironment(1, settings);
    environment.getConfig().enableObjectReuse();
    environment.enableCheckpointing(1000);
    environment
        .addSource(new Feed(args[0], Double.parseDouble(args[1])))
        .map(new Decode())
        .keyBy(event -> event.box_id)
        .process(new Enrich())
        .sinkTo(new DiscardingSink<>());
    environment.execute("state");
    double wall = (System.nanoTime() - startedNanos) / 1e9;
    double cpu = (cpuNanos() - startedCpuNanos) / 1e9;
    long lines;
    try (var all = Files.lines(Path.of(args[0]))) {
      lines = all.count();
    }
    long peak = 0;
    for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
      if (line.startsWith("VmHWM:")) {
        peak = Long.parseLong(line.replaceAll("\\D+", ""));
      }
    }
    long units = lines - (long) (lines * Double.parseDouble(args[1]));
    System.out.printf(
        Locale.ROOT, "{\"units\":%d,\"wall_s\":%f,\"cpu_s\":%f,\"peak_mib\":%f}%n", units, wall, cpu, peak / 1024.0);
  }
}
