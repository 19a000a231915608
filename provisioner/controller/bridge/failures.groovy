/** Ends a request with the reason in its console, unless somebody else could still serve it. */
@CompileStatic
class ProvisionerBridgeFailures {
    private final ProvisionerBridge bridge

    ProvisionerBridgeFailures(ProvisionerBridge bridge) { this.bridge = bridge }

    Map<String, Object> explain(String owner, Map<String, Object> op) {
        Queue.Item item = ProvisionerBridge.queued(ProvisionerBridgeFields.request(op, true))
        // one that has left the queue was taken by another: no agent is to be started for it
        return [ok: true, others: item == null || othersServe(owner, item)] as Map<String, Object>
    }

    Map<String, Object> fail(String owner, Map<String, Object> op) {
        Map<String, Object> wanted = ProvisionerBridgeFields.request(op, true)
        String message = ProvisionerBridgeFields.text(op, 'message')
        String reason = ProvisionerBridgeFields.text(op, 'reason')
        boolean retryable = op.get('retryable') == true
        Queue.Item item = ProvisionerBridge.queued(wanted)
        if (item == null) return outcome('gone', null)
        if (othersServe(owner, item)) return outcome('spared', null)
        ProvisionerBridgeConsole console = bridge.consoleOf(wanted)
        List<Object> lines = new ArrayList<Object>(ProvisionerBridgeFields.list(op, 'lines'))
        boolean told = false
        for (Object line : lines) if (String.valueOf(line).contains(message)) told = true
        if (!told) lines.add(message + ' (' + reason + ')')
        Queue queue = Queue.getInstance()
        if (console.isPipeline()) {
            Object context = ProvisionerBridgePipeline.context(item.task)
            console.addInAnyCase(lines)
            console.drainToStep()
            AbortException problem = new AbortException(message)
            if (retryable) problem.initCause(quiet(new ClosedChannelException()))
            quiet(problem)
            // In one hold of the queue lock, so that no executor can take the item in between; the first outcome
            // of a step counts, so the one that the cancelled item brings comes too late.
            boolean[] done = [false] as boolean[]
            Queue.withLock({ ->
                if (ProvisionerBridge.queued(wanted) != null && !isPending(item)) {
                    ProvisionerBridgePipeline.failStep(context, problem)
                    queue.cancel(item.task)
                    done[0] = true
                }
            } as Runnable)
            return done[0] ? outcome('step_failed', ProvisionerBridgeItem.of(item).json.get('build_url')) : outcome('gone', null)
        }
        if (makesRecords(item.task) && item instanceof Queue.BuildableItem) {
            console.addInAnyCase(lines)
            ProvisionerBridgeNotBuilt record = new ProvisionerBridgeNotBuilt((Queue.BuildableItem) item, console.drain())
            boolean[] taken = [false] as boolean[]
            Queue.withLock({ ->
                if (ProvisionerBridge.queued(wanted) != null && !isPending(item)) taken[0] = record.takeOver()
            } as Runnable)
            return taken[0] ? outcome('not_built', urlOfStarted(item)) : outcome('gone', null)
        }
        boolean[] left = [false] as boolean[]
        Queue.withLock({ ->
            if (ProvisionerBridge.queued(wanted) != null && !isPending(item)) left[0] = withoutRecord(item, message)
        } as Runnable)
        if (!left[0]) return outcome('gone', null)
        ProvisionerBridge.LOG.log(Level.WARNING, "provisioner bridge: queue item ${item.getId()} (${item.task.getFullDisplayName()}) " +
            "makes no build record, so it was cancelled: ${message} (${reason})")
        return outcome('cancelled', null)
    }

    /** Whether its failure can be a build: not where Jenkins itself runs the job, and only what it starts needs an agent. */
    private static boolean makesRecords(Queue.Task task) {
        return task instanceof AbstractProject || (task instanceof Job && !(task instanceof Queue.FlyweightTask))
    }

    /**
     * Take an item whose task makes no record out of the queue. The reason is in the item for as long as Jenkins knows
     * it, and whoever waits for the task is told it. Call it with the queue lock held.
     */
    private static boolean withoutRecord(Queue.Item item, String message) {
        Method leave = Queue.Item.getDeclaredMethod('leave', Queue)
        Method enter = Queue.LeftItem.getDeclaredMethod('enter', Queue)
        leave.setAccessible(true)
        enter.setAccessible(true)
        if (!leave.invoke(item, Queue.getInstance())) return false
        tellWaiting(item, quiet(new AbortException(message)))
        Queue.LeftItem left = new Queue.LeftItem(item)
        left.addAction(new InterruptedBuildAction([new ProvisionerBridgeCause(message)] as Collection<CauseOfInterruption>))
        enter.invoke(left, Queue.getInstance())
        ProvisionerBridgeNotBuilt.show()
        return true
    }

    /** Whoever waits for the start or the end of an item that has left the queue hears that neither will be. */
    static void tellWaiting(Queue.Item item, Throwable problem) {
        ((AsyncFutureImpl) item.getFuture().getStartCondition()).set(problem)
        ((AsyncFutureImpl) item.getFuture()).set(problem)
    }

    /** Whether a node that is not ours, an agent that another owner has made for it, or a cloud could serve the item. */
    private boolean othersServe(String owner, Queue.Item item) {
        for (ProvisionerBridgeAgent agent : bridge.agents.values()) {
            if (agent.owner != owner && agent.isFor(item) && !agent.finished && !agent.barred) return true
        }
        Label label = item.getAssignedLabel()
        Jenkins jenkins = Jenkins.get()
        List<Node> nodes = new ArrayList<Node>(jenkins.getNodes())
        nodes.add(jenkins)
        for (Node node : nodes) {
            if (node.getNumExecutors() < 1 || ProvisionerBridge.isMarked(node)) continue
            if (label == null ? node.getMode() == Node.Mode.NORMAL : label.matches(node)) return true
        }
        Cloud.CloudState asked = new Cloud.CloudState(label, 0)
        for (Cloud cloud : jenkins.clouds) {
            if (cloud.canProvision(asked)) return true
        }
        return false
    }

    /** It is saved with the run, and where it was made in this script says nothing to anybody. */
    private static Throwable quiet(Throwable problem) {
        problem.setStackTrace(new StackTraceElement[0])
        return problem
    }

    /** The record is made a moment later by its executor; the item has left in any case. */
    private static String urlOfStarted(Queue.Item item) {
        try {
            Object build = item.getFuture().getStartCondition().get(5L, TimeUnit.SECONDS)
            return build instanceof Run ? ((Run) build).getUrl() : null
        } catch (Exception problem) {
            ProvisionerBridge.complain("waiting for the record of queue item ${item.getId()}", problem)
            return null
        }
    }

    private static boolean isPending(Queue.Item item) {
        return item instanceof Queue.BuildableItem && ((Queue.BuildableItem) item).isPending()
    }

    private static Map<String, Object> outcome(String what, Object buildUrl) {
        return [ok: true, outcome: what, build_url: buildUrl] as Map<String, Object>
    }
}

/** Why an item was cancelled; with the item it is forgotten after some minutes, and never saved. */
@CompileStatic
class ProvisionerBridgeCause extends CauseOfInterruption {
    private final String message

    ProvisionerBridgeCause(String message) { this.message = message }

    @Override
    String getShortDescription() { return message }
}

/** A build record for an item that never got an agent: it writes why, and ends NOT_BUILT. */
@CompileStatic
class ProvisionerBridgeNotBuilt implements SubTask, Queue.Executable {
    private final Queue.Task project
    private final Queue.BuildableItem item
    private final List<String> lines
    private WorkUnitContext context

    ProvisionerBridgeNotBuilt(Queue.BuildableItem item, List<String> lines) {
        project = item.task
        this.item = item
        this.lines = lines
    }

    /**
     * Take the item out of the queue and run this in its place, on an executor of the moment, as light-weight
     * tasks do: a matrix cell wants an executor thread, and listeners see an ordinary build.
     * Call it with the queue lock held.
     */
    boolean takeOver() {
        Method leave = Queue.Item.getDeclaredMethod('leave', Queue)
        Method start = Computer.getDeclaredMethod('startFlyWeightTask', WorkUnit)
        leave.setAccessible(true)
        start.setAccessible(true)
        Computer host = Jenkins.get().toComputer()
        if (host == null) throw new IllegalStateException('the built-in node has no computer')
        if (!leave.invoke(item, Queue.getInstance())) return false
        show()
        context = new WorkUnitContext(item)
        try {
            start.invoke(host, context.createWorkUnit(this))
        } catch (Exception problem) {
            // it has left the queue, and nobody else would tell whoever waits for it
            ProvisionerBridge.complain("starting the record of queue item ${item.getId()}", problem)
            ProvisionerBridgeFailures.tellWaiting(item, problem)
        }
        return true
    }

    /** What everybody else sees of the queue is a copy, which would show the item until the queue's next pass. */
    static void show() {
        Method update = Queue.getDeclaredMethod('updateSnapshot')
        update.setAccessible(true)
        update.invoke(Queue.getInstance())
    }

    @Override
    Queue.Executable createExecutable() { return this }

    @Override
    String getDisplayName() { return project.getDisplayName() }

    @Override
    Queue.Task getOwnerTask() { return project }

    @Override
    SubTask getParent() { return this }

    /** Both interfaces have a default for it, so the class must choose. */
    @Override
    long getEstimatedDuration() { return -1L }

    @Override
    void run() {
        AsyncFutureImpl<Queue.Executable> future = (AsyncFutureImpl<Queue.Executable>) item.getFuture()
        try {
            Queue.Executable build
            ACLContext system = ACL.as2(ACL.SYSTEM2)
            try {
                build = project.createExecutable()
            } finally {
                system.close()
            }
            if (!(build instanceof Run)) {
                future.setAsCancelled()  // the job is disabled by now
                return
            }
            Run<?, ?> record = (Run<?, ?>) build
            for (Action action : context.actions) record.addAction(action)
            context.getPrimaryWorkUnit().setExecutable(build)
            ((AsyncFutureImpl<Queue.Executable>) item.getFuture().getStartCondition()).set(build)
            Method execute = Run.getDeclaredMethod('execute', Run.RunExecution)
            execute.setAccessible(true)
            execute.invoke(record, new ProvisionerBridgeNotBuiltRun(record, lines))
            future.set(build)
        } catch (Throwable problem) {
            ProvisionerBridge.complain("ending queue item ${item.getId()} as NOT_BUILT", problem)
            future.set(problem)
        }
    }
}

/** What such a build does. */
class ProvisionerBridgeNotBuiltRun extends Run.RunExecution {
    private final List<String> lines

    ProvisionerBridgeNotBuiltRun(Run build, List<String> lines) {
        super(build)
        this.lines = lines
    }

    @Override
    Result run(BuildListener listener) {
        lines.each { listener.logger.println(ProvisionerBridgeConsole.PREFIX + it) }
        return Result.NOT_BUILT
    }

    /** Who is to be notified of a build is so of this one; what would look at a workspace or publish has nothing to do. */
    @Override
    void post(BuildListener listener) {
        if (!(getBuild() instanceof AbstractBuild)) return
        AbstractBuild build = (AbstractBuild) getBuild()
        build.project.publishersList.each { publisher ->
            if (!(publisher instanceof Notifier)) return
            try {
                publisher.perform(build, new Launcher.DummyLauncher(listener), listener)
            } catch (Throwable problem) {
                listener.logger.println("${ProvisionerBridgeConsole.PREFIX}${publisher.descriptor.displayName} could not tell of this build: ${problem.message}")
                ProvisionerBridge.complain("notifying of ${build}", problem)
            }
        }
    }

    @Override
    void cleanUp(BuildListener listener) {}
}
