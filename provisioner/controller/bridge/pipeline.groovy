/** What the Pipeline plugins keep to themselves. They may not be installed, so nothing here names their classes. */
class ProvisionerBridgePipeline {
    static final String TASK = 'org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$PlaceholderTask'
    static final String CAUSE = 'org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$RemovedNodeCause'

    @CompileStatic
    static boolean isNodeStep(Object task) { return task != null && TASK == task.getClass().getName() }

    @CompileStatic
    private static Object field(Object task, String name) {
        Field field = task.getClass().getDeclaredField(name)
        field.setAccessible(true)
        return field.get(task)
    }

    @CompileStatic
    static Object context(Object task) { return field(task, 'context') }

    /** `folder/job#3`: from the field, since asking the task may load the run. */
    @CompileStatic
    static String runId(Object task) { return (String) field(task, 'runId') }

    /** A `node` body that a restart of the controller interrupted, on its way back to its own agent. */
    @CompileStatic
    static boolean returnsTo(Object task, String node) {
        if (!isNodeStep(task)) return false
        return field(task, 'cookie') != null && node == field(task, 'label')
    }

    static Object get(Object context, Class<?> what) { return context.get(what) }

    static void failStep(Object context, Throwable problem) { context.onFailure(problem) }

    /**
     * Tell, once, that the body of a `node` step has ended, before the script goes on: its executor hears of that
     * only later. The listener is the running execution's, and not saved with it. May wait for the run to be loaded.
     */
    static void whenBodyEnds(Object context, Runnable ended) {
        def loader = context.class.classLoader
        def kind = loader.loadClass('org.jenkinsci.plugins.workflow.flow.GraphListener$Synchronous')
        def blockEnd = loader.loadClass('org.jenkinsci.plugins.workflow.graph.BlockEndNode')
        def execution = context.get(loader.loadClass('org.jenkinsci.plugins.workflow.flow.FlowExecution'))
        def step = context.get(loader.loadClass('org.jenkinsci.plugins.workflow.graph.FlowNode'))
        if (execution == null || step == null) return
        def handler = { Object listener, Method method, Object[] arguments ->
            if (method.name == 'equals') return listener.is(arguments[0])
            if (method.name == 'hashCode') return System.identityHashCode(listener)
            if (method.name == 'toString') return 'provisioner bridge'
            def node = arguments[0]
            if (blockEnd.isInstance(node) && node.startNode.parents.any { it.id == step.id }) {
                execution.removeListener(listener)
                ended.run()
            }
            return null
        } as InvocationHandler
        execution.addListener(Proxy.newProxyInstance(kind.classLoader, [kind] as Class[], handler))
    }

    /** End the `node` bodies on a node at once: Jenkins itself would wait five minutes for it to come back. */
    static void interrupt(Computer computer) {
        computer.executors.each { Executor executor ->
            def executable = executor.currentExecutable
            if (executable != null && isNodeStep(executable.parent)) {
                def cause = executable.class.classLoader.loadClass(CAUSE).getDeclaredConstructor().newInstance()
                executor.interrupt(Result.ABORTED, cause)
            }
        }
    }
}
